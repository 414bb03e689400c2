# lines 30
emotion report compare plain leaky
