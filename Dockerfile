# docker build -t triplane-video . && docker run --gpus all --ipc=host -v /data:/data -v "$PWD/results:/app/results" triplane-video --help
# Several GPUs: docker run ... --entrypoint torchrun triplane-video --standalone --nproc_per_node=8 main.py --exp ddpm ...
FROM python:3.11-slim

WORKDIR /app
COPY pyproject.toml README.md main.py ./
COPY tools tools
COPY evals evals
COPY autoencoder autoencoder
COPY latent_diffusion latent_diffusion
COPY configs configs
# torch's wheel brings its own CUDA libraries; only the driver is the host's
RUN pip install --no-cache-dir -e .

ENV OMP_WAIT_POLICY=passive VIDEO_DATA=/data VIDEO_WEIGHTS=/app/weights
VOLUME ["/data", "/app/results", "/app/weights"]
ENTRYPOINT ["python", "main.py"]
CMD ["--help"]
