//! Networks that leave out weights, channels, ranks, layers, tokens or time steps.

use super::{Family, Paper};

/// The papers of this family, by number.
pub(super) const PAPERS: &[Paper] = &[
    Paper {
        number: 3,
        name: "rd-prune",
        title: "Efficient Joint Optimization of Layer-Adaptive Weight Pruning in Deep Neural Networks",
        venue: "ICCV 2023, arXiv:2308.10438",
        family: Family::Sparsify,
        claim: "Sparsities chosen by a dynamic program over measured output distortions, additive across \
            layers, prune better than uniform, ERK or LAMP rates.",
    },
    Paper {
        number: 19,
        name: "continual-inference",
        title: "Efficient Online Processing with Deep Neural Networks",
        venue: "dissertation, Aarhus University 2023, arXiv:2306.13474",
        family: Family::Sparsify,
        claim: "Reordering clip networks so that each frame is computed once gives the same predictions \
            online at a fraction of the multiply-adds, and adapters can be pruned with the channels.",
    },
    Paper {
        number: 21,
        name: "ftwt",
        title: "Fire Together Wire Together: A Dynamic Pruning Approach with Self-Supervised Mask Prediction",
        venue: "CVPR 2022, arXiv:2110.08232",
        family: Family::Sparsify,
        claim: "A small head that predicts which filters will respond most prunes per input with less loss \
            than static pruning at equal multiply-adds.",
    },
    Paper {
        number: 36,
        name: "gamma-mod",
        title: "γ-MoD: Exploring Mixture-of-Depth Adaptation for Multimodal Large Language Models",
        venue: "ICLR 2025, arXiv:2410.13859",
        family: Family::Sparsify,
        claim: "The rank of attention maps tells which layers may skip tokens, so that a multimodal model \
            runs in about half the time with little loss.",
    },
    Paper {
        number: 45,
        name: "maestro",
        title: "Maestro: Uncovering Low-Rank Structures via Trainable Decomposition",
        venue: "ICML 2024, arXiv:2308.14929",
        family: Family::Sparsify,
        claim: "Training factors by sampled rank prefixes orders them by importance and shrinks ranks during \
            training, with plain SVD as its linear special case.",
    },
    Paper {
        number: 51,
        name: "snnk",
        title: "Scalable Neural Network Kernels",
        venue: "ICLR 2024, arXiv:2310.13225",
        family: Family::Sparsify,
        claim: "Random features that separate inputs from weights replace dense layers by smaller linear \
            ones, and collapse stacks of layers, with little loss.",
    },
    Paper {
        number: 56,
        name: "mue",
        title: "You Need Multiple Exiting: Dynamic Early Exiting for Accelerating Unified Vision Language \
            Model",
        venue: "CVPR 2023, arXiv:2211.11152",
        family: Family::Sparsify,
        claim: "Leaving encoder and decoder once consecutive hidden states are nearly parallel saves up to \
            half the compute with almost all of the accuracy.",
    },
    Paper {
        number: 59,
        name: "orthogonal-convolution",
        title: "Existence, Stability and Scalability of Orthogonal Convolutional Neural Networks",
        venue: "JMLR 2022, arXiv:2108.05623",
        family: Family::Sparsify,
        claim: "Orthogonal convolutions exist for stated shapes, and a penalty on the kernel alone bounds \
            the distance to orthogonality at every image size.",
    },
    Paper {
        number: 65,
        name: "unified-layer-skipping",
        title: "Accelerating Inference in Large Language Models with a Unified Layer Skipping Strategy",
        venue: "arXiv:2404.06954 (2024)",
        family: Family::Sparsify,
        claim: "Skipping the same evenly spaced layers for every decoded token holds quality and throughput \
            better than choosing layers per input at the same speed-up.",
    },
    Paper {
        number: 90,
        name: "a-sdm",
        title: "A-SDM: Accelerating Stable Diffusion through Model Assembly and Feature Inheritance \
            Strategies",
        venue: "arXiv:2406.00210 (2024)",
        family: Family::Sparsify,
        claim: "Taking features over from the previous denoising step, or assembling a light network and \
            distilling it, speeds up diffusion at nearly the same quality.",
    },
    Paper {
        number: 91,
        name: "read-me",
        title: "Read-ME: Refactorizing LLMs as Router-Decoupled Mixture of Experts with System Co-Design",
        venue: "NeurIPS 2024, arXiv:2410.19123",
        family: Family::Sparsify,
        claim: "A dense model cut into experts under one router that decides for all layers ahead beats \
            dense models of the same active size and makes batching and caching of experts efficient.",
    },
];
