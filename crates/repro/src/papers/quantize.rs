//! Low-bit weights and activations, and the choice of bits.

use super::{Family, Paper};

/// The papers of this family, by number.
pub(super) const PAPERS: &[Paper] = &[
    Paper {
        number: 4,
        name: "repquant",
        title: "RepQuant: Towards Accurate Post-Training Quantization of Large Transformer Models via Scale \
            Reparameterization",
        venue: "arXiv:2402.05628 (2024)",
        family: Family::Quantize,
        claim: "Learned per-channel clipping and weight reconstruction on top of scale reparameterization \
            improve transformers at four bits in weights and activations.",
    },
    Paper {
        number: 10,
        name: "adaptive-precision",
        title: "Adaptive Precision Training (AdaPT): A dynamic fixed point quantized training approach for \
            DNNs",
        venue: "arXiv:2107.13490 (2021)",
        family: Family::Quantize,
        claim: "Word and fraction lengths that follow each layer's weight distribution and gradient \
            diversity train sparse fixed-point networks to the accuracy of 32-bit floats.",
    },
    Paper {
        number: 15,
        name: "decoupleq",
        title: "decoupleQ: Towards 2-bit Post-Training Uniform Quantization via decoupling Parameters into \
            Integer and Floating Points",
        venue: "arXiv:2404.12759 (2024)",
        family: Family::Quantize,
        claim: "Alternating between integers and an exact solve for scales and zeros makes plain uniform \
            two-bit weights usable where GPTQ diverges.",
    },
    Paper {
        number: 25,
        name: "lq-lora",
        title: "LQ-LoRA: Low-rank Plus Quantized Matrix Decomposition for Efficient Language Model \
            Finetuning",
        venue: "ICLR 2024, arXiv:2311.12023",
        family: Family::Quantize,
        claim: "Splitting a weight into a quantized and a low-rank part, with bits assigned by an integer \
            program, fine-tunes below three bits as well as QLoRA at four.",
    },
    Paper {
        number: 28,
        name: "calib-tip",
        title: "Improving Post Training Neural Quantization: Layer-wise Calibration and Integer Programming",
        venue: "ICML 2021, arXiv:2006.10518",
        family: Family::Quantize,
        claim: "Layer-wise learned rounding, an integer program over bit widths and repaired norm statistics \
            reach four bits with little loss from a tiny calibration set.",
    },
    Paper {
        number: 32,
        name: "rsq",
        title: "RSQ: Learning from Important Tokens Leads to Better Quantized LLMs",
        venue: "arXiv:2503.01820 (2025)",
        family: Family::Quantize,
        claim: "Weighting GPTQ's second moment by the attention that tokens receive, after a rotation, \
            lowers perplexity at three bits.",
    },
    Paper {
        number: 34,
        name: "int2-1",
        title: "INT2.1: Towards Fine-Tunable Quantized Large Language Models with Error Correction through \
            Low-Rank Adaptation",
        venue: "arXiv:2306.08162 (2023)",
        family: Family::Quantize,
        claim: "Low-rank branches trained to imitate the full-precision model turn a useless two-bit \
            language model into a coherent one for five percent more bytes.",
    },
    Paper {
        number: 52,
        name: "repq-vit",
        title: "RepQ-ViT: Scale Reparameterization for Post-Training Quantization of Vision Transformers",
        venue: "ICCV 2023, arXiv:2212.08254",
        family: Family::Quantize,
        claim: "Moving channel-wise activation scales into the adjacent norm and weights lets a per-tensor \
            quantizer keep the accuracy of a per-channel one at four bits.",
    },
    Paper {
        number: 55,
        name: "augmented-hessian",
        title: "Augmenting Hessians with Inter-Layer Dependencies for Mixed-Precision Post-Training \
            Quantization",
        venue: "arXiv:2306.04879 (2023)",
        family: Family::Quantize,
        claim: "Adding measured pairwise terms to Hessian sensitivities orders layers better, so that more \
            of them go to low precision at the same accuracy.",
    },
    Paper {
        number: 57,
        name: "double-rounding",
        title: "Nearly Lossless Adaptive Bit Switching",
        venue: "arXiv:2502.01199 (2025)",
        family: Family::Quantize,
        claim: "One integer tensor rounded again to each lower width serves all bit widths nearly as well as \
            separately trained networks.",
    },
    Paper {
        number: 60,
        name: "quantnas",
        title: "QuantNAS for super resolution: searching for efficient quantization-friendly architectures \
            against quantization noise",
        venue: "arXiv:2208.14839 (2022)",
        family: Family::Quantize,
        claim: "Searching operations and bits together under quantization noise finds super-resolution \
            networks with better PSNR per bit operation than quantizing a fixed one.",
    },
    Paper {
        number: 75,
        name: "bivit",
        title: "BiViT: Extremely Compressed Binary Vision Transformer",
        venue: "ICCV 2023, arXiv:2211.07091",
        family: Family::Quantize,
        claim: "A threshold relative to each row's maximum keeps the long tail of softmax attention, so that \
            binary vision transformers lose much less than with the plain sign.",
    },
    Paper {
        number: 82,
        name: "mixdq",
        title: "MixDQ: Memory-Efficient Few-Step Text-to-Image Diffusion Models with Metric-Decoupled Mixed \
            Precision Quantization",
        venue: "ECCV 2024, arXiv:2405.17873",
        family: Family::Quantize,
        claim: "Caching the constant first text token and pricing content and quality layers by separate \
            metrics keeps few-step diffusion intact at eight-bit activations and four-bit weights.",
    },
    Paper {
        number: 84,
        name: "zeroq",
        title: "ZeroQ: A Novel Zero Shot Quantization Framework",
        venue: "CVPR 2020, arXiv:2001.00281",
        family: Family::Quantize,
        claim: "Inputs optimized to match stored batch norm statistics calibrate ranges and rank layers \
            almost as well as real data.",
    },
    Paper {
        number: 87,
        name: "eora",
        title: "EoRA: Training-free Compensation for Compressed LLM with Eigenspace Low-Rank Approximation",
        venue: "arXiv:2410.21271 (2024)",
        family: Family::Quantize,
        claim: "Truncating the compression error in the eigenspace of the inputs gives a low-rank branch \
            that recovers more than plain SVD of the error, without training.",
    },
    Paper {
        number: 95,
        name: "q-vlm",
        title: "Q-VLM: Post-training Quantization for Large Vision-Language Models",
        venue: "NeurIPS 2024, arXiv:2410.08119",
        family: Family::Quantize,
        claim: "Searching activation quantizers jointly over short blocks of dependent layers, found by \
            entropy, beats searching layer by layer at four bits.",
    },
];
