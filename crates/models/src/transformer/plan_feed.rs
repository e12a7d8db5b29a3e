//! The feed-forward sublayers and the head of a plan.

use trimtab_nn::Axis;

use super::plan::{Blueprint, linear};
use super::stage_plan::{ExpertsPlan, FeedPlan, HeadPlan, MlpPlan, PoolPlan};
use super::{Head, MlpKind, NormPlan, SitePlan, Start, TablePlan};
use crate::spec::MlpNames;

impl Blueprint {
    pub(super) fn feed(&self, i: usize) -> FeedPlan {
        let (c, names) = (&self.config, &self.names);
        // Where a block adds both sublayers at once with one norm, both read the same rows.
        let input = match c.parallel && names.mlp_norm.is_none() {
            true => "attention_input",
            false => "mlp_input",
        };
        match (&c.experts, &names.experts) {
            (Some(options), Some(experts)) if c.blocks[i].experts => {
                let gate = |name: &str| {
                    let axis = Axis::new(format!("{}.{name}", self.block_name(i)), 1);
                    self.site(i, name, input, [&self.residual(), &axis])
                };
                let router = Axis::new(format!("{}.experts", self.block_name(i)), options.count);
                let router = self.site(i, &experts.router, input, [&self.residual(), &router]);
                let plain = |meta| SitePlan { meta, bias: false, start: Start::Normal };
                let expert = |e: usize| {
                    let part = format!("expert{e}_");
                    let names = experts.each.map(|name| name.replace("{e}", &e.to_string()));
                    self.mlp(i, &names, &part, &format!("{part}input"), options.hidden)
                };
                FeedPlan::Experts(Box::new(ExpertsPlan {
                    router: plain(router),
                    shared: experts
                        .shared
                        .as_ref()
                        .zip(options.shared_hidden)
                        .map(|(names, hidden)| self.mlp(i, names, "shared_", input, hidden)),
                    shared_gate: experts.shared_gate.as_deref().map(|name| plain(gate(name))),
                    experts: (0..options.count).map(expert).collect(),
                    options: options.clone(),
                }))
            }
            _ => FeedPlan::Mlp(Box::new(self.mlp(i, &names.mlp(), "", input, c.hidden))),
        }
    }

    fn mlp(&self, i: usize, names: &MlpNames, part: &str, input: &str, hidden: usize) -> MlpPlan {
        let (c, block, residual) = (&self.config, self.block_name(i), self.residual());
        let gated = c.mlp == MlpKind::Gated;
        let axis = Axis::new(format!("{block}.{part}hidden"), hidden);
        let up = |name: &str, output: &Axis, fused: bool| {
            let mut meta = self.site(i, name, input, [&residual, output]);
            meta.fused = fused.then(|| format!("{block}.{part}gate_up"));
            SitePlan { meta, bias: c.biases.mlp, start: Start::Normal }
        };
        let up = match (gated, &names.gate_up, &names.gate, &names.up) {
            (true, Some(both), ..) => {
                vec![up(both, &Axis::new(format!("{block}.{part}gate_up"), 2 * hidden), false)]
            }
            (gated, _, gate, name) => {
                let gate = gate.iter().filter(|_| gated);
                gate.chain(name).map(|name| up(name, &axis, gated)).collect()
            }
        };
        let down = self.site(i, &names.down, &format!("{part}mlp_hidden"), [&axis, &residual]);
        let down = SitePlan { meta: down, bias: c.biases.mlp, start: Start::Small };
        MlpPlan { up, down, gated, activation: c.activation }
    }

    pub fn head(&self) -> HeadPlan {
        let (c, names) = (&self.config, &self.names);
        let (residual, embedded) = (self.residual(), self.embedded());
        let norm = self.norm(&names.final_norm, residual.clone());
        let to_vocabulary = matches!(c.head, Head::Language | Head::Tied);
        let projection = names.head_projection.as_ref().filter(|_| to_vocabulary && residual != embedded);
        let projection = projection.map(|name| SitePlan {
            meta: linear(self.module(name), &format!("{}read_out", self.scope), &residual, &embedded),
            bias: false,
            start: Start::Normal,
        });
        let name = match (c.head, &norm) {
            (Head::None | Head::Attended, Some(norm)) => norm.name.clone(),
            _ => self.module(names.head.as_deref().unwrap_or("/lm_head")),
        };
        let site = |input: &Axis, output: Axis, bias| SitePlan {
            meta: linear(name.clone(), &format!("{}head", self.scope), input, &output),
            bias,
            start: Start::Normal,
        };
        let vocabulary = || self.axis("vocabulary", c.vocab().unwrap_or(0));
        let site = match c.head {
            Head::Pooler => Some(site(&residual, self.axis("pooled", c.width), true)),
            Head::Pooled(_) if names.head.is_some() => {
                Some(site(&residual, self.axis("projected", c.projection), c.biases.head))
            }
            Head::Language => {
                Some(SitePlan { start: Start::Vocabulary, ..site(&embedded, vocabulary(), c.biases.head) })
            }
            Head::Tied | Head::Pooled(_) | Head::Attended | Head::None => None,
        };
        let optional = matches!(c.head, Head::Pooler | Head::Pooled(_));
        let site = site.filter(|_| !optional || self.has_head_site);
        let pool = (c.head == Head::Attended).then(|| self.pool()).flatten();
        HeadPlan { name, norm, projection, site, pool }
    }

    fn pool(&self) -> Option<PoolPlan> {
        let (c, names, residual) = (&self.config, self.names.pool.as_ref()?, self.residual());
        let table = |tensor: String, shape: Vec<usize>| TablePlan { tensor, shape, start: Start::Normal };
        let module = |name: &str| self.module(name);
        let plan = |name: &str, reads: &str, input: &Axis, output: &Axis| SitePlan {
            meta: linear(module(name), &format!("{}{reads}", self.scope), input, output),
            bias: true,
            start: Start::Normal,
        };
        let hidden = self.axis("pool.hidden", c.hidden);
        let pooled = self.axis("pooled", c.width);
        Some(PoolPlan {
            probe: table(module(&names.probe), vec![1, 1, c.width]),
            in_weight: table(format!("{}_weight", module(&names.in_proj)), vec![3 * c.width, c.width]),
            in_bias: table(format!("{}_bias", module(&names.in_proj)), vec![3 * c.width]),
            out: plan(&names.out, "pool.output", &residual, &pooled),
            norm: NormPlan { name: module(&names.norm), axis: pooled.clone(), style: c.norm },
            mlp: MlpPlan {
                up: vec![plan(&names.up, "pool.mlp_input", &pooled, &hidden)],
                down: plan(&names.down, "pool.mlp_hidden", &hidden, &pooled),
                gated: false,
                activation: c.activation,
            },
        })
    }
}
