"""A server: OpenAI's chat completions over two images."""
