//! How a network is trained: optimizers, batches, gradient exchange, losses, data.

use super::{Family, Paper};

/// The papers of this family, by number.
pub(super) const PAPERS: &[Paper] = &[
    Paper {
        number: 5,
        name: "decoupled-mixup",
        title: "Harnessing Hard Mixed Samples with Decoupled Regularizer",
        venue: "NeurIPS 2023, arXiv:2203.10761",
        family: Family::Train,
        claim: "A loss term that leaves the mixing partner out of each class's softmax lifts static mixers \
            to the level of saliency-driven ones at no cost.",
    },
    Paper {
        number: 17,
        name: "cda",
        title: "Dataset Distillation via Curriculum Data Synthesis in Large Data Era",
        venue: "TMLR 2024, arXiv:2311.18838",
        family: Family::Train,
        claim: "Synthesizing images from whole views first and small crops later distils large data sets \
            into better training sets than crops of one size range throughout.",
    },
    Paper {
        number: 23,
        name: "l-greco",
        title: "L-GreCo: Layerwise-Adaptive Gradient Compression for Efficient and Accurate Deep Learning",
        venue: "MLSys 2024, arXiv:2210.17357",
        family: Family::Train,
        claim: "Compression levels per layer from a knapsack over measured gradient errors send less than a \
            uniform level at the same total error and accuracy.",
    },
    Paper {
        number: 33,
        name: "lamb",
        title: "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes",
        venue: "ICLR 2020, arXiv:1904.00962",
        family: Family::Train,
        claim: "Scaling each layer's Adam step to its weight norm keeps quality at batches so large that \
            Adam loses it.",
    },
    Paper {
        number: 41,
        name: "adadagrad",
        title: "AdAdaGrad: Adaptive Batch Size Schemes for Adaptive Gradient Methods",
        venue: "arXiv:2402.11215 (2024)",
        family: Family::Train,
        claim: "Growing the batch when gradient noise outweighs the signal, under AdaGrad, trades efficiency \
            against generalization better than a constant small or large batch.",
    },
    Paper {
        number: 50,
        name: "adaptive-mi-estimators",
        title: "Adaptive Estimators Show Information Compression in Deep Neural Networks",
        venue: "ICLR 2019, arXiv:1902.09037",
        family: Family::Train,
        claim: "Mutual-information estimators that follow each layer's activity show compression in networks \
            whose activations do not saturate.",
    },
    Paper {
        number: 66,
        name: "ul2",
        title: "UL2: Unifying Language Learning Paradigms",
        venue: "ICLR 2023, arXiv:2205.05131",
        family: Family::Train,
        claim: "A mixture of denoisers marked by mode tokens trains one model that beats span corruption and \
            causal modelling on each other's tasks.",
    },
    Paper {
        number: 73,
        name: "dcl",
        title: "Decoupled Contrastive Learning",
        venue: "ECCV 2022, arXiv:2110.06848",
        family: Family::Train,
        claim: "Removing the positive pair from the denominator of InfoNCE lets contrastive learning work at \
            small batches.",
    },
    Paper {
        number: 98,
        name: "gradient-noise",
        title: "Adding Gradient Noise Improves Learning for Very Deep Networks",
        venue: "ICLR 2017 submission, arXiv:1511.06807",
        family: Family::Train,
        claim: "Gaussian gradient noise of decaying variance trains very deep networks out of \
            initializations where plain training stays stuck.",
    },
];
