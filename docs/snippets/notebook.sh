python $EMOTION_DOCS/notebook.py
