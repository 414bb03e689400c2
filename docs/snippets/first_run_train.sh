# lines 40
emotion cross-validate --folds 3 --data.batch_size 32 --trainer.max_epochs 8 \
  --data drawn:largest=250,ratio=8,size=48,confusion=0,classes=neutral+happy+surprise+sad+fear
