"""Networks: tensors in, tensors out. They know nothing of files, millimetres or noise schedules."""
