"""Train, predict and evaluate from Python."""

import emotion

faces = "drawn:largest=60,ratio=3,size=48"
run = emotion.fit("quick", data=faces, overrides={"data.split": "holdout", "trainer.max_epochs": 2})
print(run.scores)

model = emotion.load(run.run_id)
image = str(run.data.manifest.file(0))
print(model.predict(image)[["label", "confidence"]])

other = emotion.evaluate(model, "drawn:largest=20,ratio=1,size=48,seed=9")
print(other.scores)
