"""Prompts for when nobody gave any: calibration from a text model's own samples, and the first look at it."""

PROMPTS = (
    "a photograph of a red fox in a snowy forest",
    "an oil painting of a fishing harbour at dawn",
    "a close-up portrait of an old woman with silver hair, natural light",
    "a bowl of ramen with a soft egg, studio food photography",
    "a city street in the rain at night, neon reflections",
    "a pencil sketch of a bicycle leaning against a brick wall",
    "an aerial view of rice terraces under morning mist",
    "a small wooden cabin beside a mountain lake",
    "a watercolour of a bouquet of wild flowers",
    "an astronaut reading a newspaper on a park bench",
    "a marble statue of a lion in a museum hall",
    "a cosy living room with a fireplace and many books",
    "a macro photograph of a dragonfly on a leaf",
    "a steam train crossing a stone viaduct in autumn",
    "an isometric illustration of a tiny bakery",
    "two children flying a kite on a windy beach",
)
