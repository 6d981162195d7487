"""The paper's experiments: folds, methods, predictions, and the tables and figures made of them."""
