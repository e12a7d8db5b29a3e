//! Networks as files: images, video, scenes and weights as bit streams.

use super::{Family, Paper};

/// The papers of this family, by number.
pub(super) const PAPERS: &[Paper] = &[
    Paper {
        number: 9,
        name: "recombiner",
        title: "RECOMBINER: Robust and Enhanced Compression with Bayesian Implicit Neural Representations",
        venue: "ICLR 2024, arXiv:2309.17182",
        family: Family::Codec,
        claim: "Sending a posterior sample of a small coordinate network by relative entropy coding, with \
            learned linear reparameterization and hierarchical patches, codes images better than quantized \
            coordinate networks at low rate.",
    },
    Paper {
        number: 35,
        name: "segpic",
        title: "Region-Adaptive Transform with Segmentation Prior for Image Compression",
        venue: "ECCV 2024, arXiv:2403.00628",
        family: Family::Codec,
        claim: "Kernels and affine modulation drawn from a few region prototypes, with masks needed in \
            training only, lower the rate of a learned image codec.",
    },
    Paper {
        number: 42,
        name: "hnerv",
        title: "HNeRV: A Hybrid Neural Representation for Videos",
        venue: "CVPR 2023, arXiv:2304.02633",
        family: Family::Codec,
        claim: "Small learned embeddings per frame and a decoder with evenly spread parameters fit a video \
            better and faster than a network of the frame index alone.",
    },
    Paper {
        number: 49,
        name: "iarn",
        title: "Effective Invertible Arbitrary Image Rescaling",
        venue: "WACV 2023, arXiv:2209.13055",
        family: Family::Codec,
        claim: "One invertible flow that knows scale and pixel position rescales images by any real factor \
            and back better than separate down- and upsampling.",
    },
    Paper {
        number: 58,
        name: "walloc",
        title: "Learned Compression for Compressed Learning",
        venue: "DCC 2025, arXiv:2412.09405",
        family: Family::Codec,
        claim: "A wavelet packet and one linear layer suffice as encoder, so that latents small in number \
            and in bits cost a few percent of the usual encoding compute.",
    },
    Paper {
        number: 77,
        name: "birdnerf",
        title: "BirdNeRF: Fast Neural Reconstruction of Large-Scale Scenes From Aerial Imagery",
        venue: "arXiv:2402.04554 (2024)",
        family: Family::Codec,
        claim: "Splitting aerial views by camera position into overlapping small fields reconstructs large \
            scenes much faster than photogrammetry or one large field, at comparable quality.",
    },
    Paper {
        number: 85,
        name: "s2lic",
        title: "S2LIC: Learned Image Compression with the SwinV2 Block, Adaptive Channel-wise and \
            Global-inter Attention Context",
        venue: "arXiv:2403.14471 (2024)",
        family: Family::Codec,
        claim: "An entropy model that attends to earlier channel slices and to the whole plane, in two \
            checkerboard passes, saves rate against channel or checkerboard context alone.",
    },
    Paper {
        number: 89,
        name: "nirvana",
        title: "NIRVANA: Neural Implicit Representations of Videos with Adaptive Networks and Autoregressive \
            Patch-wise Modeling",
        venue: "CVPR 2023, arXiv:2212.14593",
        family: Family::Codec,
        claim: "Networks for groups of frames, each started from the one before and coded as the \
            entropy-penalized difference of integer weights, encode video faster and spend few bits on still \
            content.",
    },
];
