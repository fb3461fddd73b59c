//! Faults of published trainers (docs/faults.md) that need a model to show.

use assay_critic::player::TokenScalars;
use assay_lm::ChatTemplate;
use candle_core::{Tensor, Var};

use super::*;

/// A policy that claims to train one tensor more than its passes reach.
struct WithUnreached {
    policy: PolicyModel,
    unreached: Var,
}

impl Player for WithUnreached {
    fn scalar(&self) -> &'static str {
        self.policy.scalar()
    }

    fn body(&self) -> (&Transformer, Option<&Adapter>) {
        self.policy.body()
    }

    fn head(
        &self,
        hidden: &Tensor,
        batch: &PackedBatch,
    ) -> Result<Tensor, assay_critic::CriticError> {
        self.policy.head(hidden, batch)
    }

    fn head_tensors(&self) -> Vec<&Tensor> {
        self.policy.head_tensors()
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let mut all = self.policy.parameters();
        all.push(("unreached".to_owned(), self.unreached.clone()));
        all
    }
}

fn policy(model: &LanguageModel) -> PolicyModel {
    let adapter = Adapter::new(model.transformer.config(), &adapter_settings(), 4).unwrap();
    PolicyModel {
        transformer: model.transformer.clone(),
        trainable: Trainable::Adapter(adapter.to_device(&place().device).unwrap()),
    }
}

#[test]
fn fault_19_an_unreached_parameter_is_an_error() {
    let model = model();
    let groups = [Group {
        prompt: vec![3, 4, 5],
        completions: vec![vec![6, 7], vec![8]],
    }];
    let passes = || UpdatePasses {
        execution: Execution::single_process(1000),
        reach: Reach::Completion,
    };
    let sum = |scalars: &[Vec<f32>], _: Range<usize>| {
        let ones: TokenScalars = scalars.iter().map(|row| vec![1.0; row.len()]).collect();
        Ok(LossGradients {
            report: (),
            gradients: ones,
        })
    };
    assert!(update(&policy(&model), &groups, passes(), sum).is_ok());
    let device = place().device;
    let unreached = Var::zeros(3, candle_core::DType::F32, &device).unwrap();
    let player = WithUnreached {
        policy: policy(&model),
        unreached,
    };
    let error = update(&player, &groups, passes(), sum).err().unwrap();
    let TrainError::MissingGradient { parameter } = error else {
        panic!("{error}");
    };
    assert_eq!(parameter, "unreached");
}

/// The tokens that have scalars are those of the completion, whatever the template writes before
/// it.
#[test]
fn fault_07_headers_shift_no_scalar() {
    let problems = problems(3);
    let prompt = PromptSettings {
        style: PromptStyle::Plain,
        ..PromptSettings::default()
    };
    let limits = TokenLimits {
        prompt: 64,
        completion: 64,
    };
    let encoded = |header: &str| {
        let text = format!(
            "{{% for message in messages %}}{{{{ message['content'] }}}}{{% if message['role'] == 'assistant' %}}\
             <|end|>{{% endif %}}{{% endfor %}}{{% if add_generation_prompt %}}{header}{{% endif %}}"
        );
        let tiny = model();
        let model = LanguageModel {
            template: ChatTemplate::new(&text, &tiny.tokenizer, Path::new("header")).unwrap(),
            ..tiny
        };
        let encoder = Encoder::new(&model, &prompt, limits);
        let (all, _) = encoder.demonstrations(&problems).unwrap();
        let texts: Vec<String> = all
            .iter()
            .map(|d| model.decode(&d.completion.ids).0)
            .collect();
        (all, texts)
    };
    let (bare, _) = encoded("");
    let (headed, texts) = encoded("ok #### \n");
    for ((bare, headed), text) in bare.iter().zip(&headed).zip(texts) {
        assert_eq!(
            headed.prompt.len(),
            bare.prompt.len() + 3,
            "the header is prompt"
        );
        assert_eq!(headed.completion, bare.completion);
        assert_eq!(text, headed.completion.text);
        let group = Group {
            prompt: headed.prompt.clone(),
            completions: vec![headed.completion.ids.clone()],
        };
        let batch = PackedBatch::new(&[group]).unwrap();
        let (rows, predicted) = batch.predictions();
        assert_eq!(*predicted, *headed.completion.ids);
        // The last token of the header predicts the first of the completion.
        assert_eq!(rows[0] as usize, headed.prompt.len() - 1);
    }
}
