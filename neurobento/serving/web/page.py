"""The page at `/`: what the service is and a form to try it. It loads nothing from elsewhere."""

from __future__ import annotations

__all__ = ["PAGE"]

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>neurobento</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
 body { font: 16px/1.5 system-ui, sans-serif; max-width: 42rem; margin: 3rem auto; padding: 0 1rem;
        color: #1c2733; background: #fff }
 h1 { margin-bottom: 0 }
 form { border: 1px solid #cfd8e3; border-radius: 8px; padding: 1rem; margin: 1rem 0 }
 label { display: block; margin: .5rem 0 } code { background: #eef2f7; padding: 0 .3em }
 button { font: inherit; padding: .4rem 1.2rem }
</style>
<h1>neurobento</h1>
<p>Send a T1-weighted brain scan: the answer labels its 116 AAL regions, in the scan's own space. Or
send a single slice: the answer is an anomaly score and a heat map. For research, not for
diagnosis.</p>
<form action="/v1/parcellation" method="post" enctype="multipart/form-data">
 <label>Scan (.nii, .nii.gz, .mgz) <input type="file" name="file" required></label>
 <label>Preprocessing <select name="preprocessing">
  <option value="full">full: a head with skull (takes minutes)</option>
  <option value="stripped">stripped: the skull has been removed</option>
  <option value="none">none: already on the network grid</option>
  <option value="report_a">report_a: a head, by report A's nine steps</option></select></label>
 <button>Parcellate</button>
 <p>The answer is a zip: labels, volumes, picture, facts of the run.</p>
</form>
<form action="/v1/anomaly" method="post" enctype="multipart/form-data">
 <label>Slice (PNG, JPEG, DICOM, NIfTI) <input type="file" name="file" required></label>
 <button>Look for anomalies</button>
 <p>The answer is JSON: score, threshold, facts of the run. With
 <code>Accept: image/png</code> it is a picture, with <code>application/zip</code> all files.</p>
</form>
<p><code>POST /v1/parcellation</code> &middot; <code>POST /v1/anomaly</code> &middot;
<code>POST /predict/</code> &middot;
<a href="/v1/models">models</a> &middot; <a href="/docs.json">OpenAPI</a> &middot;
<a href="/metrics">metrics</a> &middot; <a href="/readyz">ready?</a></p>
</html>
"""
