# lines 30
emotion report certify plain
# status 1
# lines 30
emotion report certify leaky
