"""A service that parcellates scans and finds anomalies in slices, used from elsewhere: over HTTP
or over gRPC, the same way.

with Client("http://127.0.0.1:3000", timeout_s=1800) as client:
    answer = client.parcellate(Path("head.nii.gz"))
    Path("head_dseg.nii.gz").write_bytes(answer.dseg)
    score = client.anomaly(Path("slice.png")).score
    id = client.submit(Path("head.nii.gz"))  # a job: the service may be restarted meanwhile
    answer = client.job_answer(id)
"""

from neurobento.client.exchange import AnomalyAnswer, Answer
from neurobento.client.retries import Retries
from neurobento.client.session import Client

__all__ = ["AnomalyAnswer", "Answer", "Client", "Retries"]
