"""Whether what a model learns from shows what it is judged on."""
