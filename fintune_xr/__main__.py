"""`python -m fintune_xr`: the command line of the Python that runs it, whatever the `PATH` holds."""

from fintune_xr.pipelines.cli.app import main

if __name__ == "__main__":
    main()
