python $EMOTION_DOCS/make_folder.py
