//! Parameter-efficient fine-tuning and the composition of adapters.

use super::{Family, Paper};

/// The papers of this family, by number.
pub(super) const PAPERS: &[Paper] = &[
    Paper {
        number: 6,
        name: "nola",
        title: "NOLA: Networks as Linear Combination of Low Rank Random Basis",
        venue: "ICLR 2024, arXiv:2310.02556",
        family: Family::Adapt,
        claim: "An adapter stored as a seed and mixing coefficients of fixed random matrices matches \
            rank-one LoRA with about a twentieth of its numbers.",
    },
    Paper {
        number: 8,
        name: "diffuse-krona",
        title: "DiffuseKronA: A Parameter Efficient Fine-tuning Method for Personalized Diffusion Model",
        venue: "WACV 2025, arXiv:2402.17412",
        family: Family::Adapt,
        claim: "A Kronecker-product update reaches a higher rank than LoRA with a third fewer parameters, \
            and depends less on rank and learning rate.",
    },
    Paper {
        number: 12,
        name: "sherl",
        title: "SHERL: Synthesizing High Accuracy and Efficient Memory for Resource-Limited Transfer \
            Learning",
        venue: "ECCV 2024, arXiv:2407.07523",
        family: Family::Adapt,
        claim: "A side module over frozen features, read out through the last pre-trained layer only, keeps \
            fine-tuning quality while gradients stay out of the rest of the backbone.",
    },
    Paper {
        number: 14,
        name: "lora-limits",
        title: "Computational Limits of Low-Rank Adaptation (LoRA) for Transformer-Based Models",
        venue: "ICLR 2025, arXiv:2406.03136",
        family: Family::Adapt,
        claim: "LoRA's attention gradients can be approximated in almost linear time in the sequence length \
            exactly while the logits stay below about the square root of its logarithm.",
    },
    Paper {
        number: 18,
        name: "llava-mole",
        title: "LLaVA-MoLE: Sparse Mixture of LoRA Experts for Mitigating Data Conflicts in Instruction \
            Finetuning MLLMs",
        venue: "arXiv:2401.16160 (2024)",
        family: Family::Adapt,
        claim: "Routing each token to one of several LoRA experts removes the loss that mixed instruction \
            domains cause in a single LoRA, at the compute of one.",
    },
    Paper {
        number: 30,
        name: "lisa",
        title: "LISA: Layerwise Importance Sampling for Memory-Efficient Large Language Model Fine-Tuning",
        venue: "NeurIPS 2024, arXiv:2403.17919",
        family: Family::Adapt,
        claim: "Training embedding, head and a few randomly redrawn blocks at full rank beats LoRA at the \
            same memory.",
    },
    Paper {
        number: 31,
        name: "corda",
        title: "CorDA: Context-Oriented Decomposition Adaptation of Large Language Models",
        venue: "NeurIPS 2024, arXiv:2406.05223",
        family: Family::Adapt,
        claim: "Decomposing a weight along the covariance of its inputs finds which directions to train, so \
            that an adapter keeps chosen knowledge or learns a task faster than from plain SVD.",
    },
    Paper {
        number: 38,
        name: "diffora",
        title: "DiffoRA: Enabling Parameter-Efficient LLM Fine-Tuning via Differential Low-Rank Matrix \
            Adaptation",
        venue: "arXiv:2502.08905 (2025)",
        family: Family::Adapt,
        claim: "Learned on/off gates per module place low-rank matrices better than putting one everywhere \
            with the same parameter count.",
    },
    Paper {
        number: 46,
        name: "allora",
        title: "ALLoRA: Adaptive Learning Rate Mitigates LoRA Fatal Flaws",
        venue: "arXiv:2410.09692 (2024)",
        family: Family::Adapt,
        claim: "Scaling each output row's gradient by a decreasing function of the update's row norm \
            replaces LoRA's dropout and scale factor and improves short fine-tuning.",
    },
    Paper {
        number: 53,
        name: "colora",
        title: "Contribution-based Low-Rank Adaptation with Pre-training Model for Real Image Restoration",
        venue: "ECCV 2024, arXiv:2408.01099",
        family: Family::Adapt,
        claim: "Adapter ranks in proportion to each layer's measured contribution restore real images about \
            as well as full tuning with a small share of the parameters.",
    },
    Paper {
        number: 61,
        name: "cmlora",
        title: "Cached Multi-Lora Composition for Multi-Concept Image Generation",
        venue: "ICLR 2025, arXiv:2502.04923",
        family: Family::Adapt,
        claim: "Letting one LoRA dominate each denoising step by its frequency content, with cached features \
            for the others, composes more concepts without training than summing them.",
    },
    Paper {
        number: 71,
        name: "lora-lego",
        title: "Merging LoRAs like Playing LEGO: Pushing the Modularity of LoRA to Extremes Through \
            Rank-Wise Clustering",
        venue: "ICLR 2025, arXiv:2409.16167",
        family: Family::Adapt,
        claim: "Clustering the rank-one units of several LoRAs yields a merged LoRA of any rank that \
            interferes less than averaging or task arithmetic.",
    },
    Paper {
        number: 76,
        name: "mola",
        title: "Higher Layers Need More LoRA Experts",
        venue: "NAACL Findings 2025, arXiv:2402.08562",
        family: Family::Adapt,
        claim: "With the same total, few LoRA experts in low layers and many in high ones do at least as \
            well as an equal number in each.",
    },
    Paper {
        number: 92,
        name: "sara",
        title: "SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank Adaptation",
        venue: "ICLR 2025, arXiv:2409.06633",
        family: Family::Adapt,
        claim: "Training only the smallest, otherwise useless weights under a low-rank penalty adapts a \
            diffusion model better than LoRA, and with less memory.",
    },
];
