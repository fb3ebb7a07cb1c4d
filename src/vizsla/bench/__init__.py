"""Pictures and a configuration in, what each part of training and predicting costs on this machine out."""
