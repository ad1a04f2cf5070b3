# The public face: what is imported here is offered lazily by the package, and nothing else.
from .models.checkpoints import Checkpoint as Checkpoint
from .models.vjepa2.adapter import load_vjepa2_encoder as load_vjepa2_encoder
from .pipelines.demos.demo import demo as demo
from .pipelines.report.report import report as report
from .pipelines.steps.annotate import annotate as annotate
from .pipelines.steps.associate import associate as associate
from .pipelines.steps.bootstrap import bootstrap as bootstrap
from .pipelines.steps.check import check as check
from .pipelines.steps.classify import classify as classify
from .pipelines.steps.doctor import doctor as doctor
from .pipelines.steps.evaluate import evaluate as evaluate
from .pipelines.steps.export import export as export
from .pipelines.steps.import_run import import_run as import_run
from .pipelines.steps.infer import infer as infer
from .pipelines.steps.ingest import ingest as ingest
from .pipelines.steps.ingest import plan_ingest as plan_ingest
from .pipelines.steps.measure import measure as measure
from .pipelines.steps.pick import pick as pick
from .pipelines.steps.positivity import positivity as positivity
from .pipelines.steps.qc import qc as qc
from .pipelines.steps.split import split as split
from .pipelines.steps.suggest import suggest as suggest
from .pipelines.steps.train import train as train
from .pipelines.steps.view import view as view
from .pipelines.steps.weights import weights as weights
from .pipelines.studies.benchmark import benchmark as benchmark
from .pipelines.studies.budget import budget as budget
from .pipelines.studies.gate import gate as gate
from .pipelines.studies.hybrid import hybrid as hybrid
from .pipelines.studies.probe import probe as probe
from .pipelines.studies.selftrain import selftrain as selftrain
from .pipelines.studies.sweep import sweep as sweep
from .store.cohort import Cohort as Cohort
from .store.cohort import open_cohort as open_cohort
from .store.labels.group_index import with_labels as with_labels
from .store.raw.layouts import choose_layout as choose_layout

__all__ = [
    "Checkpoint",
    "Cohort",
    "annotate",
    "associate",
    "benchmark",
    "bootstrap",
    "budget",
    "check",
    "choose_layout",
    "classify",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "gate",
    "hybrid",
    "import_run",
    "infer",
    "ingest",
    "load_vjepa2_encoder",
    "measure",
    "open_cohort",
    "pick",
    "plan_ingest",
    "positivity",
    "probe",
    "qc",
    "report",
    "selftrain",
    "split",
    "suggest",
    "sweep",
    "train",
    "view",
    "weights",
    "with_labels",
]
