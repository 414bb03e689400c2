# lines 40
emotion search --recipe quick --space loss --trials 4 --folds 2 \
  --data drawn:largest=60,ratio=3,size=48,confusion=0,classes=neutral+happy+surprise
