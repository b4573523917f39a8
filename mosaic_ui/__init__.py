"""The studio's page: Gradio components and their wiring. The science lives in `core/`."""
