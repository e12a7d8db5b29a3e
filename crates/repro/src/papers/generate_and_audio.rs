//! Image generators and audio models that split dense interaction into a cheap and an exact part.

use super::{Family, Paper};

/// The papers of this family, by number.
pub(super) const PAPERS: &[Paper] = &[
    Paper {
        number: 20,
        name: "m-var",
        title: "M-VAR: Decoupled Scale-wise Autoregressive Modeling for High-Quality Image Generation",
        venue: "arXiv:2411.10433 (2024)",
        family: Family::GenerateAndAudio,
        claim: "Attention inside a scale and a linear-time state-space layer between scales generate images \
            as well as attention over all scales, with less attention cost.",
    },
    Paper {
        number: 24,
        name: "slct",
        title: "Improved Training Technique for Latent Consistency Models",
        venue: "ICLR 2025, arXiv:2502.01441",
        family: Family::GenerateAndAudio,
        claim: "A redescending loss, optimal-transport pairing, a diffusion term at low noise and a norm of \
            fixed gain keep consistency training from collapsing on latents with outliers.",
    },
    Paper {
        number: 74,
        name: "dimr",
        title: "Alleviating Distortion in Image Generation via Multi-Resolution Diffusion Models and \
            Time-Dependent Layer Normalization",
        venue: "NeurIPS 2024, arXiv:2406.09416",
        family: Family::GenerateAndAudio,
        claim: "A cascade of resolutions inside one denoiser, and norms that mix two learned vectors by \
            time, improve samples at a cost near that of a coarse-patch transformer.",
    },
    Paper {
        number: 81,
        name: "catr",
        title: "CATR: Combinatorial-Dependence Audio-Queried Transformer for Audio-Visual Video Segmentation",
        venue: "ACM Multimedia 2023, arXiv:2309.09709",
        family: Family::GenerateAndAudio,
        claim: "Mixing sound and video along space and time in two separate branches, with queries made from \
            audio, segments sounding objects better than treating the two dependencies apart.",
    },
    Paper {
        number: 88,
        name: "complex-aec",
        title: "End-to-End Complex-Valued Multidilated Convolutional Neural Network for Joint Acoustic Echo \
            Cancellation and Noise Suppression",
        venue: "ICASSP 2022, arXiv:2110.00745",
        family: Family::GenerateAndAudio,
        claim: "One small complex-valued network with a mask for the microphone and one for the far end \
            cancels echo and noise together without an adaptive filter.",
    },
    Paper {
        number: 99,
        name: "mossformer2",
        title: "MossFormer2: Combining Transformer and RNN-Free Recurrent Network for Enhanced Time-Domain \
            Monaural Speech Separation",
        venue: "ICASSP 2024, arXiv:2312.11825",
        family: Family::GenerateAndAudio,
        claim: "Adding dilated feed-forward memory between gated attention blocks separates speakers better \
            than attention alone and stays parallel in time.",
    },
];
