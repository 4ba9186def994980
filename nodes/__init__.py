"""The ComfyUI nodes: id -> class and id -> title. This version has none; the library and its commands come first."""

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
