"""A small configuration of the TensorFlow Object Detection API; ``HERE`` is the miner's place."""

PLAIN = """
model {
  ssd {
    num_classes: 3
    image_resizer { fixed_shape_resizer { height: 300 width: 300 } }
    feature_extractor { type: "ssd_mobilenet_v2_keras" min_depth: 16 depth_multiplier: 1.0 }
    box_coder { faster_rcnn_box_coder {
      y_scale: 10.0 x_scale: 10.0 height_scale: 5.0 width_scale: 5.0
    } }
    matcher {
      argmax_matcher { matched_threshold: 0.5 unmatched_threshold: 0.4 force_match_for_each_row: true }
    }
    similarity_calculator { iou_similarity { } }
    anchor_generator { ssd_anchor_generator {
      num_layers: 6 min_scale: 0.2 max_scale: 0.95
      aspect_ratios: [1.0, 2.0, 0.5, 3.0, 0.3333]
    } }
    box_predictor { convolutional_box_predictor {
      kernel_size: 3 use_dropout: false apply_sigmoid_to_scores: false class_prediction_bias_init: -4.6
      conv_hyperparams { initializer { truncated_normal_initializer { stddev: 0.02 mean: 0.0 } } }
    } }
    loss {
      classification_loss { weighted_sigmoid { } }
      localization_loss { weighted_smooth_l1 { delta: 0.5 } }
      hard_example_miner { HERE }
      classification_weight: 2.0
      localization_weight: 1.0
    }
    normalize_loss_by_num_matches: true
    normalize_loc_loss_by_codesize: true
    post_processing {
      batch_non_max_suppression { score_threshold: 0.3 iou_threshold: 0.6 max_total_detections: 50 }
      score_converter: SIGMOID
    }
  }
}
train_config: {
  batch_size: 12
  num_steps: 5000
  optimizer { momentum_optimizer { learning_rate { cosine_decay_learning_rate {
    learning_rate_base: .08 total_steps: 5000 warmup_steps: 100 } } } use_moving_average: false }
  data_augmentation_options { random_horizontal_flip { probability: 0.25 } }
  data_augmentation_options { random_rotation90 { } }
}
train_input_reader { label_map_path: "map.pbtxt" }
"""
MINER = "num_hard_examples: 100 iou_threshold: 0.7 loss_type: BOTH"
