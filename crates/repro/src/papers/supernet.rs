//! Weight-sharing super-networks and the search over their slices.

use super::{Family, Paper};

/// The papers of this family, by number.
pub(super) const PAPERS: &[Paper] = &[
    Paper {
        number: 29,
        name: "controllable-mtl",
        title: "Efficient Controllable Multi-Task Architectures",
        venue: "ICCV 2023, arXiv:2308.11744",
        family: Family::Supernet,
        claim: "A slimmable shared encoder and slimmable decoders follow a user's task preference and \
            compute budget without retraining.",
    },
    Paper {
        number: 37,
        name: "linas",
        title: "A Hardware-Aware System for Accelerating Deep Neural Network Optimization",
        venue: "arXiv:2202.12954 (2022)",
        family: Family::Supernet,
        claim: "Alternating a few real measurements with large searches on light predictors finds the Pareto \
            front of a super-network in far fewer evaluations than evolution alone.",
    },
    Paper {
        number: 44,
        name: "ofa",
        title: "Once-for-All: Train One Network and Specialize it for Efficient Deployment",
        venue: "ICLR 2020, arXiv:1908.09791",
        family: Family::Supernet,
        claim: "Progressive shrinking trains one network whose slices match separately trained ones, so that \
            fitting it to a device is search alone.",
    },
    Paper {
        number: 54,
        name: "neas",
        title: "One-Shot Neural Ensemble Architecture Search by Diversity-Guided Search Space Shrinking",
        venue: "CVPR 2021, arXiv:2104.00597",
        family: Family::Supernet,
        claim: "Shrinking the space by accuracy and diversity, with a shared trunk, finds ensembles better \
            than one network of equal cost.",
    },
    Paper {
        number: 63,
        name: "balanced-mixture",
        title: "Balanced Mixture of SuperNets for Learning the CNN Pooling Architecture",
        venue: "AutoML Conference 2023, arXiv:2306.11982",
        family: Family::Supernet,
        claim: "Several super-networks with balanced soft assignment rank pooling layouts better than one \
            super-network that shares all its weights.",
    },
    Paper {
        number: 67,
        name: "todm",
        title: "TODM: Train Once Deploy Many Efficient Supernet-Based RNN-T Compression For On-device ASR \
            Models",
        venue: "ICASSP 2024, arXiv:2309.01947",
        family: Family::Supernet,
        claim: "One transducer super-network with scaled dropout and in-place distillation gives slices as \
            good as separately trained models at the cost of one training.",
    },
    Paper {
        number: 78,
        name: "simq-nas",
        title: "SimQ-NAS: Simultaneous Quantization Policy and Neural Architecture Search",
        venue: "arXiv:2312.13301 (2023)",
        family: Family::Supernet,
        claim: "Searching architecture and quantization policy together gives smaller and faster networks at \
            equal accuracy than quantizing what a search at full precision found.",
    },
];
