"""Use a service from elsewhere, over HTTP or gRPC; the extra `client` is enough for it.

with Client("http://127.0.0.1:3000", timeout_s=1800) as client:
    answer = client.parcellate(Path("head.nii.gz"))
    Path("head_dseg.nii.gz").write_bytes(answer.dseg)
    score = client.anomaly(Path("slice.png")).score
    id = client.submit(Path("head.nii.gz"))  # a job outlives a restart of the service
    answer = client.job_answer(id)
"""

from neurobento.client.answers import AnomalyAnswer, Answer
from neurobento.client.client import Client
from neurobento.client.retries import Retries

__all__ = ["AnomalyAnswer", "Answer", "Client", "Retries"]
