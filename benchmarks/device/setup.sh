# Unpacks what `python -m benchmarks.device prepare` has made. In the root of the repository, on the machine with the
# card: . benchmarks/device/setup.sh
export PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 OMP_WAIT_POLICY=passive TRITON_CACHE_DIR=/tmp/seamless-triton
export PYTHONPATH="$PWD/engine:$PWD/kernels:$PWD/.device/lib:/tmp/seamless-site${PYTHONPATH:+:$PYTHONPATH}"
python3 -m pip install -q --no-index --no-deps --no-compile --upgrade --target /tmp/seamless-site .device/wheels/*.whl &&
    cp .device/lib/*.so kernels/seamless_kernels/ &&
    tar -xzf .device/triton.tar.gz -C /tmp
