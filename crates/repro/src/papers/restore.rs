//! Image restoration and super-resolution.

use super::{Family, Paper};

/// The papers of this family, by number.
pub(super) const PAPERS: &[Paper] = &[
    Paper {
        number: 13,
        name: "tunable-convolutions",
        title: "Tunable Convolutions with Parametric Multi-Loss Optimization",
        venue: "CVPR 2023, arXiv:2304.00898",
        family: Family::Restore,
        claim: "Mixing stored kernels and training losses by the same random user parameters gives one \
            network whose every setting performs like one trained for it.",
    },
    Paper {
        number: 16,
        name: "dea-net",
        title: "DEA-Net: Single image dehazing based on detail-enhanced convolution and content-guided \
            attention",
        venue: "IEEE TIP 2024, arXiv:2301.04805",
        family: Family::Restore,
        claim: "Difference convolutions trained beside the plain one, then folded into a single kernel, \
            dehaze better at no cost in inference.",
    },
    Paper {
        number: 22,
        name: "adair",
        title: "AdaIR: Adaptive All-in-One Image Restoration via Frequency Mining and Modulation",
        venue: "ICLR 2025, arXiv:2403.14614",
        family: Family::Restore,
        claim: "Splitting features into low and high frequencies by a learned mask and modulating each by \
            the other restores several degradations with one blind model.",
    },
    Paper {
        number: 40,
        name: "medfe",
        title: "Rethinking Image Inpainting via a Mutual Encoder-Decoder with Feature Equalizations",
        venue: "ECCV 2020, arXiv:2007.06929",
        family: Family::Restore,
        claim: "Filling texture and structure features apart and then equalizing them jointly inpaints with \
            fewer blurs and artefacts.",
    },
    Paper {
        number: 68,
        name: "inpaint-for-shadow",
        title: "Leveraging Inpainting for Single-Image Shadow Removal",
        venue: "ICCV 2023, arXiv:2302.05361",
        family: Family::Restore,
        claim: "Pre-training on inpainting lets a shadow-removal network reach the same quality from far \
            fewer shadow pairs.",
    },
    Paper {
        number: 70,
        name: "night-enhancement",
        title: "Unsupervised Night Image Enhancement: When Layer Decomposition Meets Light-Effects \
            Suppression",
        venue: "ECCV 2022, arXiv:2207.10564",
        family: Family::Restore,
        claim: "Separating light effects by smoothness priors guides an unpaired translation that brightens \
            night images without amplifying glow.",
    },
    Paper {
        number: 72,
        name: "craft",
        title: "Feature Modulation Transformer: Cross-Refinement of Global Representation via High-Frequency \
            Prior for Image Super-Resolution",
        venue: "ICCV 2023, arXiv:2308.05022",
        family: Family::Restore,
        claim: "A cheap convolutional branch for high frequencies that queries window attention gives better \
            super-resolution for the parameters.",
    },
    Paper {
        number: 80,
        name: "exposure-diffusion",
        title: "ExposureDiffusion: Learning to Expose for Low-light Image Enhancement",
        venue: "ICCV 2023, arXiv:2307.07710",
        family: Family::Restore,
        claim: "Simulating the photons that a longer exposure would add, for a few steps with one network, \
            denoises raw images better than the same network applied once.",
    },
];
