"""The model: a Qwen2.5-VL or Qwen3-VL whose vision path also looks at the difference of the two images."""
