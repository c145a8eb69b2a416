from .box_refinement import dataloader, lr_multiplier, model, optimizer, train

model.as_two_stage = True
train.output_dir = "./output/two_stage"
