"""The science of MosaicDiff Studio: no gradio, no plotly, callable from a notebook or the command line."""
