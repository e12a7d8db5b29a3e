//! Steps and zeros of frozen codes, trained with the block that they stand in: the second stage of decoupleQ.
//!
//! Source: Guo et al., arXiv:2404.12759, section 3.4. Codes stay what they are; `x̂ = s·v + z` is trained in `s` and, where zeros are
//! real, in `z`. With integer zeros or symmetric codes `s` alone is trained, so any packed integers can be tuned.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use trimtab_io::{AffineTensor, Coded, RealTensor, round_floats};
use trimtab_nn::{Stage, Weight};

use crate::error::{Error, Result};
use crate::reconstruct::Part;

/// The steps, and real zeros, of one site.
pub struct Steps {
    site: String,
    matrix: Coded,
    /// Codes less their integer zeros, `[rows, cols]`, where gradients are kept.
    integers: Tensor<2>,
    scales: Vec<f32>,
    zeros: Option<Vec<f32>>,
    width: usize,
}

impl Steps {
    /// The steps of a coded site; `None` for codes that have none of their own to train: floats, tables, blocks, and integers whose
    /// groups follow another order.
    pub fn new(site: &str, matrix: &Coded) -> Option<Steps> {
        let (codes, zeros) = match matrix {
            Coded::Affine(codes) if codes.g_idx.is_none() => (codes, None),
            Coded::Real(matrix) => (matrix.codes(), Some(matrix.zeros().to_vec())),
            _ => return None,
        };
        let width = codes.scheme.group_size.unwrap_or(codes.cols).max(1);
        let mut integers = vec![0.0; codes.rows * codes.cols];
        let mut row_codes = vec![0; codes.cols];
        let groups = codes.scheme.n_groups(codes.cols);
        for (row, out) in integers.chunks_mut(codes.cols.max(1)).enumerate() {
            codes.unpack_row(row, &mut row_codes);
            for (i, (out, &code)) in out.iter_mut().zip(&row_codes).enumerate() {
                let zero = codes
                    .zeros
                    .as_ref()
                    .map_or(codes.scheme.middle(), |zeros| zeros[row * groups + i / width]);
                *out = f32::from(code) - f32::from(zero);
            }
        }
        let data = TensorData::new(integers, [codes.rows, codes.cols]);
        let integers = Tensor::from_data(data, &Device::flex().autodiff());
        let (site, scales) = (site.to_string(), codes.scales.clone());
        Some(Steps { site, matrix: matrix.clone(), integers, scales, zeros, width })
    }

    fn codes(&self) -> &AffineTensor {
        match &self.matrix {
            Coded::Real(matrix) => matrix.codes(),
            Coded::Affine(codes) => codes,
            _ => unreachable!("checked when it was made"),
        }
    }

    /// The matrix with other steps and zeros, in the order of [`Part::start`], rounded as [`Part::stored`] rounds them.
    ///
    /// # Errors
    /// Numbers that are not those of the type of the scales.
    pub fn matrix(&self, values: &[Vec<f32>]) -> Result<Coded, trimtab_io::Error> {
        let codes = AffineTensor { scales: values[0].clone(), ..self.codes().clone() };
        let AffineTensor { rows, cols, scheme, scale_dtype, .. } = codes;
        let codes = AffineTensor::from_packed(
            rows,
            cols,
            scheme,
            codes.codes,
            codes.scales,
            codes.zeros,
            codes.g_idx,
            scale_dtype,
        )?;
        Ok(match values.get(1) {
            Some(zeros) => Coded::Real(RealTensor::new(codes, zeros.clone())?),
            None => Coded::Affine(codes),
        })
    }

    /// The weight that steps, and zeros, make of the codes.
    fn weight(&self, values: &[Tensor<1>]) -> Tensor<2> {
        let codes = self.codes();
        let (rows, cols) = (codes.rows, codes.cols);
        let groups = codes.scheme.n_groups(cols);
        // Groups as rows take a value each, which is far quicker than a value a column; a last group that is shorter forbids it.
        let even = groups * self.width == cols;
        let shape = if even { [rows * groups, self.width] } else { [rows, cols] };
        let beside = |values: &Tensor<1>| match even {
            true => values.clone().reshape([rows * groups, 1]),
            false => {
                let each = values.clone().reshape([rows, groups, 1]).expand([rows, groups, self.width]);
                each.reshape([rows, groups * self.width]).narrow(1, 0, cols)
            }
        };
        let mut weight = self.integers.clone().reshape(shape) * beside(&values[0]);
        if let Some(zeros) = values.get(1) {
            weight = weight + beside(zeros);
        }
        weight.reshape([rows, cols])
    }
}

impl Part for Steps {
    fn start(&self) -> Vec<Vec<f32>> {
        std::iter::once(self.scales.clone()).chain(self.zeros.clone()).collect()
    }

    fn stored(&self, mut values: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        for (values, start) in values.iter_mut().zip(self.start()) {
            let trained = values.clone();
            let rounded = round_floats(values, self.codes().scale_dtype).is_ok();
            // A number that left the range of its type stays what it was.
            for ((x, trained), start) in values.iter_mut().zip(trained).zip(start) {
                if !rounded || !x.is_finite() || !trained.is_finite() {
                    *x = start;
                }
            }
        }
        values
    }

    fn install(&self, values: &[Tensor<1>], block: &mut dyn Stage) -> Result<()> {
        let weight = self.weight(values);
        let site = block.sites_mut().into_iter().find(|site| site.name() == self.site);
        let site = site
            .ok_or_else(|| Error::NoSite { block: "under reconstruction".into(), site: self.site.clone() })?;
        site.weight = Weight::Dense(Param::initialized(ParamId::new(), weight));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use trimtab_io::{AffineScheme, Dtype};
    use trimtab_math::random::Stream;
    use trimtab_nn::{Ctx, Flow, Layer, LayerMut, Site, SiteMeta, host};

    use super::*;
    use crate::batch::Batch;
    use crate::reconstruct::{ReconstructSettings, Reconstruction, reconstruct};

    /// Two linear maps with a bend between them.
    #[derive(Clone)]
    struct Bend([Site; 2]);

    impl Stage for Bend {
        fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> trimtab_nn::Result<Flow> {
            let x = self.0[0].forward(flow.hidden("bend")?, ctx).tanh();
            Ok(Flow::Hidden(self.0[1].forward(x, ctx)))
        }

        fn layers(&self) -> Vec<Layer<'_>> {
            self.0.iter().map(Layer::Site).collect()
        }

        fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
            self.0.iter_mut().map(LayerMut::Site).collect()
        }

        fn boxed_clone(&self) -> Box<dyn Stage> {
            Box::new(self.clone())
        }
    }

    const N: usize = 12;

    fn normals(purpose: &str, n: usize) -> Vec<f32> {
        let mut stream = Stream::new(3, purpose, 0, 0);
        (0..n).map(|_| stream.normal() as f32).collect()
    }

    fn meta(name: &str) -> SiteMeta {
        SiteMeta::linear(name, N, N)
    }

    fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    /// A block, and the same with its weights rounded to two bits; integer zeros and real ones.
    fn blocks(group_size: Option<usize>) -> (Bend, Bend, Vec<(String, Coded)>) {
        let (mut sites, mut coded_sites, mut coded) = (Vec::new(), Vec::new(), Vec::new());
        for (i, name) in ["first", "second"].into_iter().enumerate() {
            let weight = normals(name, N * N);
            let scheme = AffineScheme { bits: 2, group_size, symmetric: i == 0 };
            let groups = N * scheme.n_groups(N);
            let codes: Vec<u8> = weight.iter().map(|w| (w + 2.0).round().clamp(0.0, 3.0) as u8).collect();
            let zeros = (i == 1).then(|| vec![2; groups]);
            let matrix =
                AffineTensor::from_codes(N, N, scheme, &codes, vec![0.75; groups], zeros, None, Dtype::F16);
            let matrix = match i {
                0 => Coded::Real(RealTensor::new(matrix.unwrap(), vec![0.25; groups]).unwrap()),
                _ => Coded::Affine(matrix.unwrap()),
            };
            sites.push(Site::new(meta(name), Weight::dense(tensor(weight, [N, N])), None).unwrap());
            coded_sites.push(Site::new(meta(name), Weight::coded(matrix.clone()), None).unwrap());
            coded.push((name.to_string(), matrix));
        }
        let bend = |sites: Vec<Site>| Bend(sites.try_into().unwrap());
        (bend(sites), bend(coded_sites), coded)
    }

    fn data() -> (Vec<Batch>, Vec<Flow>) {
        let of = |i: usize| Flow::Hidden(tensor(normals(&format!("x{i}"), 4 * 5 * N), [4, 5, N]));
        let inputs: Vec<Flow> = (0..4).map(of).collect();
        let batches = inputs.iter().map(|flow| Batch { input: flow.clone(), mask: None, row_weights: None });
        (batches.collect(), inputs)
    }

    #[test]
    fn gradients_of_steps_and_zeros_are_those_of_differences() {
        for group_size in [None, Some(4), Some(5)] {
            let (target, block, coded) = blocks(group_size);
            let (batches, inputs) = data();
            let loss = |values: &[Vec<Vec<f32>>]| -> f64 {
                let mut block = block.clone();
                for ((name, matrix), values) in coded.iter().zip(values) {
                    let steps = Steps::new(name, matrix).unwrap();
                    let values: Vec<Tensor<1>> =
                        values.iter().map(|v| tensor(v.clone(), [v.len()]).autodiff()).collect();
                    steps.install(&values, &mut block).unwrap();
                }
                for site in block.sites_mut() {
                    let Weight::Dense(weight) = &site.weight else { panic!("dense") };
                    site.weight = Weight::dense(weight.val().without_autodiff());
                }
                let run = |stage: &Bend| {
                    host(stage.forward(inputs[0].clone(), &mut batches[0].ctx()).unwrap().hidden("").unwrap())
                };
                let pairs = run(&block).into_iter().zip(run(&target));
                pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / (20 * N) as f64
            };
            // One step of plain size along Adam's sign of the gradient lowers the loss as differences say; here the gradients themselves.
            let parts: Vec<Steps> =
                coded.iter().map(|(name, matrix)| Steps::new(name, matrix).unwrap()).collect();
            let values: Vec<Vec<Vec<f32>>> = parts.iter().map(Part::start).collect();
            let device = Device::flex().autodiff();
            let mut tracked = block.clone();
            let leaves: Vec<Vec<Tensor<1>>> = values
                .iter()
                .map(|part| {
                    part.iter().map(|v| Tensor::from_floats(v.as_slice(), &device).require_grad()).collect()
                })
                .collect();
            parts.iter().zip(&leaves).for_each(|(part, leaves)| part.install(leaves, &mut tracked).unwrap());
            let Flow::Hidden(x) = inputs[0].clone() else { panic!("hidden") };
            let found = tracked
                .forward(Flow::Hidden(x.autodiff()), &mut batches[0].ctx())
                .unwrap()
                .hidden("")
                .unwrap();
            let expected =
                target.forward(inputs[0].clone(), &mut batches[0].ctx()).unwrap().hidden("").unwrap();
            let gradients = (found - expected.autodiff()).square().mean().backward();
            for (part, leaves) in leaves.iter().enumerate() {
                for (which, leaf) in leaves.iter().enumerate() {
                    let gradient = host(leaf.grad(&gradients).unwrap());
                    for at in [0, gradient.len() / 2, gradient.len() - 1] {
                        let moved = |by: f32| {
                            let mut values = values.clone();
                            values[part][which][at] += by;
                            loss(&values)
                        };
                        let slope = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                        let far = (slope - f64::from(gradient[at])).abs();
                        assert!(
                            far < 2e-2 * slope.abs() + 2e-4,
                            "{group_size:?} {part} {which} {at}: {slope} {}",
                            gradient[at]
                        );
                    }
                    assert!(gradient.iter().any(|g| g.abs() > 1e-3), "control: there is a slope");
                }
            }
        }
    }

    #[test]
    fn training_comes_closer_keeps_the_codes_and_says_the_same_at_any_number_of_threads() {
        let (target, block, coded) = blocks(Some(5));
        let (batches, inputs) = data();
        let run = |settings: &ReconstructSettings| {
            let parts: Vec<Steps> =
                coded.iter().map(|(name, matrix)| Steps::new(name, matrix).unwrap()).collect();
            let of = Reconstruction {
                block: &block,
                target: &target,
                batches: &batches,
                inputs: &|i| Ok(inputs[i].clone()),
                stop: &|| false,
            };
            let parts: Vec<&dyn Part> = parts.iter().map(|part| part as &dyn Part).collect();
            reconstruct(&of, &parts, settings).unwrap()
        };
        let settings = ReconstructSettings { rate: 3e-3, epochs: 6, ..ReconstructSettings::default() };
        let found = run(&settings);
        assert!(found.after < 0.9 * found.before && found.steps == 6 * 14, "{found:?}");
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(found, pool.install(|| run(&settings)));
        for ((name, matrix), values) in coded.iter().zip(&found.values) {
            let steps = Steps::new(name, matrix).unwrap();
            let tuned = steps.matrix(values).unwrap();
            let codes = |matrix: &Coded| match matrix {
                Coded::Affine(codes) => codes.codes.to_vec(),
                Coded::Real(matrix) => matrix.codes().codes.to_vec(),
                _ => panic!("integers"),
            };
            assert_eq!(codes(&tuned), codes(matrix), "codes stay codes");
            assert_ne!(tuned.dequantize(), matrix.dequantize());
        }
        // Control: a rate that only does harm leaves everything as it was.
        let wild = run(&ReconstructSettings { rate: 10.0, epochs: 2, ..settings });
        assert_eq!(wild.after, wild.before);
        for ((name, matrix), values) in coded.iter().zip(&wild.values) {
            let same = Steps::new(name, matrix).unwrap().matrix(values).unwrap();
            assert_eq!(same.dequantize(), matrix.dequantize());
        }
    }

    /// A block that counts its runs.
    #[derive(Clone)]
    struct Counted(Bend, Arc<AtomicUsize>);

    impl Stage for Counted {
        fn forward(&self, flow: Flow, ctx: &mut Ctx<'_>) -> trimtab_nn::Result<Flow> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.forward(flow, ctx)
        }

        fn layers(&self) -> Vec<Layer<'_>> {
            self.0.layers()
        }

        fn layers_mut(&mut self) -> Vec<LayerMut<'_>> {
            self.0.layers_mut()
        }

        fn boxed_clone(&self) -> Box<dyn Stage> {
            Box::new(self.clone())
        }
    }

    #[test]
    fn what_a_sample_is_to_give_is_asked_for_once() {
        let (target, block, coded) = blocks(None);
        let (batches, inputs) = data();
        let [asked, run] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let (target, block) = (Counted(target, asked.clone()), Counted(block, run.clone()));
        let parts: Vec<Steps> =
            coded.iter().map(|(name, matrix)| Steps::new(name, matrix).unwrap()).collect();
        let parts: Vec<&dyn Part> = parts.iter().map(|part| part as &dyn Part).collect();
        let of = Reconstruction {
            block: &block,
            target: &target,
            batches: &batches,
            inputs: &|i| Ok(inputs[i].clone()),
            stop: &|| false,
        };
        reconstruct(&of, &parts, &ReconstructSettings { epochs: 3, ..ReconstructSettings::default() })
            .unwrap();
        // 16 samples, of which 2 are held out.
        assert_eq!(asked.load(Ordering::Relaxed), 16);
        assert_eq!(run.load(Ordering::Relaxed), 3 * 14 + 4 * 2, "control: the block is run each time");
    }

    #[test]
    fn training_stops_within_a_sample_when_it_is_asked_to() {
        let (target, block, coded) = blocks(None);
        let (batches, inputs) = data();
        let steps: Vec<Steps> =
            coded.iter().map(|(name, matrix)| Steps::new(name, matrix).unwrap()).collect();
        let parts: Vec<&dyn Part> = steps.iter().map(|part| part as &dyn Part).collect();
        let run = |samples: usize| {
            let asked = AtomicUsize::new(0);
            let of = Reconstruction {
                block: &block,
                target: &target,
                batches: &batches,
                inputs: &|i| Ok(inputs[i].clone()),
                stop: &|| asked.fetch_add(1, Ordering::Relaxed) == samples,
            };
            let found = reconstruct(&of, &parts, &ReconstructSettings::default());
            (found, asked.load(Ordering::Relaxed))
        };
        let (found, asked) = run(20);
        assert!(matches!(found, Err(Error::Interrupted)), "{found:?}");
        assert_eq!(asked, 21);
        assert!(run(usize::MAX).0.is_ok(), "control: nobody asks");
    }

    #[test]
    fn a_block_that_is_right_already_stays_as_it_is() {
        let (_, block, coded) = blocks(None);
        let (batches, inputs) = data();
        let parts: Vec<Steps> =
            coded.iter().map(|(name, matrix)| Steps::new(name, matrix).unwrap()).collect();
        let parts: Vec<&dyn Part> = parts.iter().map(|part| part as &dyn Part).collect();
        let of = Reconstruction {
            block: &block,
            target: &block,
            batches: &batches,
            inputs: &|i| Ok(inputs[i].clone()),
            stop: &|| false,
        };
        let found = reconstruct(&of, &parts, &ReconstructSettings::default()).unwrap();
        assert!(found.before < 1e-9 && found.after <= found.before);
    }
}
