//! Adds the result of kernels to candle's graph, with its backward pass.

use std::sync::{Mutex, PoisonError};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Result as CandleResult,
    Shape, Storage, Tensor,
};

use super::launch::Fresh;

/// Gradients at `N` inputs from the inputs, the result and the gradient at the result.
pub(crate) type Gradients<const N: usize> = CandleResult<[Option<Tensor>; N]>;

/// Returns the result as a tensor whose backward pass is `backward`. Without a tracked input, the
/// tensor has no history.
pub(crate) fn attach1<F>(
    name: &'static str,
    input: &Tensor,
    result: Fresh,
    backward: F,
) -> CandleResult<Tensor>
where
    F: Fn([&Tensor; 1], &Tensor, &Tensor) -> Gradients<1> + Send + Sync + 'static,
{
    match input.track_op() {
        true => input.apply_op1(Attached::new(name, result, backward)),
        false => Ok(result.tensor()),
    }
}

/// As [`attach1`] for two inputs.
pub(crate) fn attach2<F>(
    name: &'static str,
    [a, b]: [&Tensor; 2],
    result: Fresh,
    backward: F,
) -> CandleResult<Tensor>
where
    F: Fn([&Tensor; 2], &Tensor, &Tensor) -> Gradients<2> + Send + Sync + 'static,
{
    match a.track_op() || b.track_op() {
        true => a.apply_op2(b, Attached::new(name, result, backward)),
        false => Ok(result.tensor()),
    }
}

/// As [`attach1`] for three inputs.
pub(crate) fn attach3<F>(
    name: &'static str,
    [a, b, c]: [&Tensor; 3],
    result: Fresh,
    backward: F,
) -> CandleResult<Tensor>
where
    F: Fn([&Tensor; 3], &Tensor, &Tensor) -> Gradients<3> + Send + Sync + 'static,
{
    match a.track_op() || b.track_op() || c.track_op() {
        true => a.apply_op3(b, c, Attached::new(name, result, backward)),
        false => Ok(result.tensor()),
    }
}

/// An operation whose forward pass has already run.
struct Attached<F> {
    name: &'static str,
    result: Mutex<Option<Fresh>>,
    backward: F,
}

impl<F> Attached<F> {
    fn new(name: &'static str, result: Fresh, backward: F) -> Self {
        Self {
            name,
            result: Mutex::new(Some(result)),
            backward,
        }
    }

    fn take(&self) -> CandleResult<Fresh> {
        let taken = self
            .result
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        taken.ok_or_else(|| {
            candle_core::Error::Msg(format!("{}: the result was requested twice", self.name))
        })
    }

    fn on_cpu(&self) -> CandleResult<(CpuStorage, Shape)> {
        let fresh = self.take()?;
        match fresh.storage {
            Storage::Cpu(storage) => Ok((storage, fresh.shape)),
            _ => candle_core::bail!("{}: the result is on another device", self.name),
        }
    }

    fn on_cuda(&self) -> CandleResult<(CudaStorage, Shape)> {
        let fresh = self.take()?;
        match fresh.storage {
            Storage::Cuda(storage) => Ok((storage, fresh.shape)),
            _ => candle_core::bail!("{}: the result is on another device", self.name),
        }
    }
}

impl<F> CustomOp1 for Attached<F>
where
    F: Fn([&Tensor; 1], &Tensor, &Tensor) -> Gradients<1>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        self.on_cpu()
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        self.on_cuda()
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, grad: &Tensor) -> CandleResult<Option<Tensor>> {
        let [dx] = (self.backward)([x], y, &grad.contiguous()?)?;
        Ok(dx)
    }
}

impl<F> CustomOp2 for Attached<F>
where
    F: Fn([&Tensor; 2], &Tensor, &Tensor) -> Gradients<2>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        self.on_cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        self.on_cuda()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let [da, db] = (self.backward)([a, b], y, &grad.contiguous()?)?;
        Ok((da, db))
    }
}

impl<F> CustomOp3 for Attached<F>
where
    F: Fn([&Tensor; 3], &Tensor, &Tensor) -> Gradients<3>,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        self.on_cpu()
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        self.on_cuda()
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        y: &Tensor,
        grad: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [da, db, dc] = (self.backward)([a, b, c], y, &grad.contiguous()?)?;
        Ok((da, db, dc))
    }
}
