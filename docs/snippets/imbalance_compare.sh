# lines 40
emotion report compare as-they-are over-sampled
