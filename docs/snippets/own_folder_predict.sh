emotion predict latest my_images/happy --output answers.csv
