//! Edits of finished networks: merging, unlearning, adaptation at test time, robustness audits.

use super::{Family, Paper};

/// The papers of this family, by number.
pub(super) const PAPERS: &[Paper] = &[
    Paper {
        number: 39,
        name: "opcm",
        title: "Merging Models on the Fly Without Retraining: A Sequential Approach to Scalable Continual \
            Model Merging",
        venue: "NeurIPS 2025, arXiv:2501.09522",
        family: Family::MergeAndUnlearn,
        claim: "Projecting each arriving task vector away from the dominant directions already merged, then \
            rescaling, merges a stream of models in constant memory better than running averages.",
    },
    Paper {
        number: 43,
        name: "alpha-bn",
        title: "Test-time Batch Statistics Calibration for Covariate Shift",
        venue: "arXiv:2110.04065 (2021)",
        family: Family::MergeAndUnlearn,
        claim: "Batch normalization statistics interpolated between source and test batch beat either of the \
            two under covariate shift.",
    },
    Paper {
        number: 48,
        name: "ear",
        title: "Efficient Model Adaptation for Continual Learning at the Edge",
        venue: "arXiv:2308.02084 (2023)",
        family: Family::MergeAndUnlearn,
        claim: "High-dimensional signatures of frozen features route inputs to small adaptors found without \
            training, so that a device learns new domains and forgets none.",
    },
    Paper {
        number: 64,
        name: "o3",
        title: "Practical Unlearning for Large Language Models",
        venue: "ICLR 2025, arXiv:2407.10223",
        family: Family::MergeAndUnlearn,
        claim: "Orthogonal LoRAs for each deletion request, switched on by a detector of forgotten inputs, \
            unlearn request after request without retained data and with little loss elsewhere.",
    },
    Paper {
        number: 79,
        name: "adaea",
        title: "An Adaptive Model Ensemble Adversarial Attack for Boosting Adversarial Transferability",
        venue: "ICCV 2023, arXiv:2308.02897",
        family: Family::MergeAndUnlearn,
        claim: "Weighting surrogates by how far their steps transfer, and masking pixels where gradients \
            disagree, yields adversarial examples that transfer better than plain ensembles' do.",
    },
    Paper {
        number: 83,
        name: "adapt-then-unlearn",
        title: "Adapt then Unlearn: Exploring Parameter Space Semantics for Unlearning in Generative \
            Adversarial Networks",
        venue: "TMLR 2025, arXiv:2309.14054",
        family: Family::MergeAndUnlearn,
        claim: "Retraining a generator on accepted samples while repelling it from copies tuned toward \
            rejected ones removes the unwanted feature and keeps image quality.",
    },
    Paper {
        number: 96,
        name: "pleas",
        title: "PLeaS: Merging Models with Permutations and Least Squares",
        venue: "CVPR 2025, arXiv:2407.02447",
        family: Family::MergeAndUnlearn,
        claim: "Permuting units, merging only those that match well and refitting each layer by least \
            squares merges differently initialized networks better at any compute budget.",
    },
    Paper {
        number: 97,
        name: "cema",
        title: "Towards Robust and Efficient Cloud-Edge Elastic Model Adaptation via Selective Entropy \
            Distillation",
        venue: "ICLR 2024, arXiv:2402.17316",
        family: Family::MergeAndUnlearn,
        claim: "Uploading only samples of middling entropy lets a cloud model adapt and distil norm \
            parameters back to the device with far fewer uploads at equal accuracy.",
    },
];
