"""Every refusal of both charts: a wrong value, the message, and the nearest value that is accepted."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.charts.harness import comfyui, node_pools

Values = dict[str, Any]


class Refusal(NamedTuple):
    wrong: Values
    message: str
    legal: Values
    wrong_release: str | None = None
    legal_release: str | None = None


TARGET_GROUP = "arn:aws:elasticloadbalancing:us-west-2:123456789012:targetgroup/comfyui/0123456789abcdef"
CERTIFICATE = "arn:aws:acm:us-west-2:123456789012:certificate/0"
COGNITO = {"userPoolArn": "arn:aws:cognito-idp:us-west-2:1:userpool/x", "clientId": "c", "domain": "d"}
OIDC = {
    "issuer": "https://i",
    "authorizationEndpoint": "https://a",
    "tokenEndpoint": "https://t",
    "userInfoEndpoint": "https://u",
    "secretName": "s",
}
DIGEST = "sha256:" + "a" * 64
VPC = {"enabled": True, "vpcCidrs": ["10.0.0.0/16"]}
PEERS = [{"podSelector": {}}]
DAY = {"start": "0 8 * * 1-5", "end": "0 20 * * 1-5", "replicas": 2}
ALB = "alb.ingress.kubernetes.io"


def ingress(**values: Any) -> Values:
    return {"ingress": {"enabled": True, **values}}


def sign_in(kind: str, parts: Values, **values: Any) -> Values:
    return ingress(certificateArn=CERTIFICATE, signIn={"type": kind, kind: parts}, **values)


def windows(*given: Values, **values: Any) -> Values:
    return {"schedule": {"windows": list(given), **values}}


def sync_settings(**settings: Any) -> Values:
    return {"modelSync": {"settings": settings}}


def models(source: str, gate: str = "none", **values: Any) -> Values:
    return {"models": {"source": source, "gate": gate, **values}}


_OWN = "which the chart sets itself"
COMFYUI = [
    *[
        Refusal(
            {section: {key: ""}},
            f"comfyui: required values are not set: {section}.{key}. Set them, or in this project add -f",
            {},
        )
        for section, key in (
            ("aws", "region"),
            ("image", "repository"),
            ("inputs", "bucket"),
            ("outputs", "bucket"),
        )
    ],
    *[
        Refusal({}, f"the release's name {wrong} is used in the names of objects", {}, wrong, legal)
        for wrong, legal in (("0zero", "z"), ("a.b", "a-b"), ("a" * 46, "a" * 45))
    ],
    *[
        Refusal({"image": {"tag": tag}}, f"image.tag={tag} moves, so two pods could run different images.", legal)
        for tag, legal in (
            ("latest", {"image": {"tag": "latest-2026-11-20"}}),
            ("nightly", {"image": {"tag": "nightly", "digest": DIGEST}}),
            ("main", {"image": {"tag": "main-1"}}),
        )
    ],
    Refusal(
        {"drain": {"jobSeconds": 500, "uploadSeconds": 91}},
        "drain.jobSeconds=500 and drain.uploadSeconds=91 are 591 together, 590 are allowed",
        {"drain": {"jobSeconds": 500, "uploadSeconds": 90}},
    ),
    Refusal(
        {"serviceAccount": {"create": False, "name": ""}},
        "serviceAccount.create=false needs serviceAccount.name",
        {"serviceAccount": {"create": False, "name": "artists"}},
    ),
    *[
        Refusal(
            {"server": {"extraArgs": [wrong]}},
            f"server.extraArgs holds {wrong}, {_OWN}",
            {"server": {"extraArgs": [legal]}},
        )
        for wrong, legal in (
            ("--port=80", "--portable"),
            ("--output-directory=/x", "--verbose"),
            ("--cpu", "--cpu-vae"),
            ("--listen", "--fast"),
        )
    ],
    *[
        Refusal({where: {key: "x"}}, f"{where} holds {key}", {where: {f"{key}-2": "x"}})
        for where, key in (
            ("podAnnotations", "checksum/scripts"),
            ("podAnnotations", "kubectl.kubernetes.io/default-container"),
            ("podLabels", "app.kubernetes.io/name"),
            ("podLabels", "app.kubernetes.io/instance"),
        )
    ],
    # Ways in
    Refusal(
        {**ingress(), "loadBalancer": {"targetGroupArn": TARGET_GROUP}},
        "ingress.enabled=true and loadBalancer.targetGroupArn exclude each other",
        {"loadBalancer": {"targetGroupArn": TARGET_GROUP}},
    ),
    Refusal(
        {"ingress": {"signIn": {"type": "cognito", "cognito": COGNITO}, "certificateArn": CERTIFICATE}},
        "ingress.signIn.type=cognito has no effect without ingress.enabled=true: nobody would be asked to sign in",
        sign_in("cognito", COGNITO),
    ),
    Refusal(
        ingress(signIn={"type": "cognito", "cognito": COGNITO}),
        "ingress.signIn.type=cognito needs HTTPS: set ingress.certificateArn",
        sign_in("cognito", COGNITO),
    ),
    *[
        Refusal(
            ingress(scheme="internet-facing", allowCidrs=cidrs),
            "ingress.scheme=internet-facing would let everybody run code in the pods",
            legal,
        )
        for cidrs, legal in (
            ([], ingress(scheme="internal")),
            (["0.0.0.0/0"], ingress(scheme="internal", allowCidrs=["0.0.0.0/0"])),
            (["198.51.100.0/24", "::/0"], ingress(scheme="internet-facing", allowCidrs=["198.51.100.0/24"])),
        )
    ],
    *[
        Refusal(
            sign_in(kind, {**parts, name: ""}),
            f"ingress.signIn.type={kind} needs ingress.signIn.{kind}.{name}",
            sign_in(kind, parts),
        )
        for kind, parts in (("cognito", COGNITO), ("oidc", OIDC))
        for name in parts
    ],
    Refusal(
        ingress(annotations={f"{ALB}/scheme": "internet-facing"}),
        f"ingress.annotations holds {ALB}/scheme, {_OWN}",
        ingress(annotations={f"{ALB}/tags": "team=film"}),
    ),
    # Network policy
    Refusal(
        {"networkPolicy": {"enabled": True}},
        "networkPolicy.enabled=true needs networkPolicy.vpcCidrs",
        {"networkPolicy": VPC},
    ),
    *[
        Refusal(
            {**way, "networkPolicy": VPC},
            "would block the load balancer. Set networkPolicy.loadBalancerCidrs",
            {**way, "networkPolicy": {**VPC, "loadBalancerCidrs": ["10.0.1.0/24"]}},
        )
        for way in (ingress(), {"loadBalancer": {"targetGroupArn": TARGET_GROUP}})
    ],
    Refusal(
        {"monitoring": {"enabled": True}, "networkPolicy": VPC},
        "would block Prometheus. Set networkPolicy.metricsFrom",
        {"monitoring": {"enabled": True}, "networkPolicy": {**VPC, "metricsFrom": PEERS}},
    ),
    Refusal(
        {"networkPolicy": {**VPC, "metricsFrom": PEERS}},
        "networkPolicy.metricsFrom has no effect with monitoring.enabled=false",
        {"monitoring": {"enabled": True}, "networkPolicy": {**VPC, "metricsFrom": PEERS}},
    ),
    # Models
    Refusal(
        models("mountpoint", "all", mountpoint={"bucket": "big"}),
        "models.gate=all waits for the node's model-sync service",
        models("mountpoint", mountpoint={"bucket": "big"}),
    ),
    Refusal(
        models("efs", "first", efs={"fileSystemId": "fs-01"}),
        "models.gate=first waits for the node's model-sync service",
        models("hostPath", "first"),
    ),
    Refusal(models("hostPath", "keys"), "models.gate=keys needs models.keys", models("hostPath", "keys", keys=["a/b"])),
    Refusal(
        models("hostPath", "all", keys=["loras/a"]),
        "models.keys has no effect with models.gate=all",
        models("hostPath", "keys", keys=["loras/a"]),
    ),
    Refusal(
        models("efs"), "models.source=efs needs models.efs.fileSystemId", models("efs", efs={"fileSystemId": "fs-01"})
    ),
    Refusal(
        models("mountpoint"),
        "models.source=mountpoint needs models.mountpoint.bucket",
        models("mountpoint", mountpoint={"bucket": "big"}),
    ),
    *[
        Refusal(
            models("hostPath", "keys", keys=[wrong]), "at '/models/keys/0'", models("hostPath", "keys", keys=[legal])
        )
        for wrong, legal in (("a.safetensors", "loras/a.safetensors"), ("loras/../a", "loras/a..b"))
    ],
    # The user's own parts
    *[
        Refusal(wrong, f"{where} holds the name {name}, which the chart uses itself. Choose another name.", legal)
        for where, name, wrong, legal in (
            (
                "extraVolumes",
                "models",
                {"extraVolumes": [{"name": "models", "emptyDir": {}}]},
                {"extraVolumes": [{"name": "my-models", "emptyDir": {}}]},
            ),
            (
                "extraContainers",
                "comfyui",
                {"extraContainers": [{"name": "comfyui"}]},
                {"extraContainers": [{"name": "comfyui-2"}]},
            ),
            (
                "extraInitContainers",
                "uploader",
                {"extraInitContainers": [{"name": "uploader"}]},
                {"extraInitContainers": [{"name": "uploader-2"}]},
            ),
            (
                "server.extraEnv",
                "HOME",
                {"server": {"extraEnv": [{"name": "HOME", "value": "/"}]}},
                {"server": {"extraEnv": [{"name": "HF_HOME", "value": "/"}]}},
            ),
        )
    ],
    # Schedule
    *[
        Refusal(
            {"replicas": count, **windows(DAY)},
            f"replicas={count} and schedule.windows both set the number of pods",
            windows(DAY),
        )
        for count in (0, 3)
    ],
    Refusal(
        {"schedule": {"outside": 1}},
        "schedule.outside=1 has no effect without schedule.windows",
        windows(DAY, outside=1),
    ),
    Refusal(windows({**DAY, "start": "8:00"}), "schedule.windows[0].start=8:00 is not a cron", windows(DAY)),
    Refusal(windows(DAY, {**DAY, "end": None}), "schedule.windows[1].end=<nil> is not a cron", windows(DAY, DAY)),
    Refusal(windows({**DAY, "end": DAY["start"]}), "schedule.windows[0] starts and ends at", windows(DAY)),
    Refusal(
        windows({**DAY, "replicas": 0}),
        "schedule.windows[0].replicas=0 is not a number of pods",
        windows({**DAY, "replicas": 1}),
    ),
    Refusal(windows({**DAY, "timezone": "UTC"}), "has the unknown key timezone", windows(DAY, timezone="UTC")),
    Refusal(windows(DAY, timezone="CET+1"), "at '/schedule/timezone'", windows(DAY, timezone="Europe/Berlin")),
    # Schema
    Refusal({"replica": 2}, "'replica' not allowed", {"replicas": 2}),
    Refusal({"gpu": {"cuont": 1}}, "at '/gpu': additional properties 'cuont'", {"gpu": {"count": 1}}),
    Refusal({"gpu": {"count": 9}}, "at '/gpu/count': maximum: got 9, want 8", {"gpu": {"count": 8}}),
    Refusal({"gpu": {"count": "1"}}, "at '/gpu/count': got string, want integer", {"gpu": {"count": 1}}),
    Refusal(
        {"outputs": {"mode": "copy"}},
        "at '/outputs/mode': value must be one of 'upload', 'mount'",
        {"outputs": {"mode": "mount"}},
    ),
    Refusal({"outputs": {"prefix": "no-slash"}}, "at '/outputs/prefix'", {"outputs": {"prefix": "slash/"}}),
    Refusal({"inputs": {"prefix": "/leading/"}}, "at '/inputs/prefix'", {"inputs": {"prefix": "leading/"}}),
    Refusal({"inputs": {"bucket": "Bad_Bucket"}}, "at '/inputs/bucket'", {"inputs": {"bucket": "good-bucket"}}),
    Refusal({"image": {"digest": "sha256:abc"}}, "at '/image/digest'", {"image": {"digest": DIGEST}}),
    Refusal({"models": {"hostPath": "relative"}}, "at '/models/hostPath'", {"models": {"hostPath": "/absolute"}}),
    Refusal(
        {"loadBalancer": {"targetGroupArn": "comfyui"}},
        "at '/loadBalancer/targetGroupArn'",
        {"loadBalancer": {"targetGroupArn": TARGET_GROUP}},
    ),
]


def pool(**values: Any) -> Values:
    return {"pools": {"default": values}}


def part(size: int) -> Values:
    return {"nodeClassDefaults": {"extraUserData": [{"contentType": "text/x-shellscript", "content": "#" * size}]}}


KARPENTER_GPU = [
    *[
        Refusal(wrong, f"karpenter-gpu: required values are not set: {path}. Set them, or in this project add -f", {})
        for path, wrong in (
            ("cluster.name", {"cluster": {"name": ""}}),
            ("nodeRole", {"nodeRole": ""}),
            ("modelSync.bucket", {"modelSync": {"bucket": ""}}),
            ("modelSync.files.path.sha256", {"modelSync": {"files": {"path": {"sha256": ""}}}}),
        )
    ],
    *[
        Refusal(
            pool(instanceTypes=[wrong]),
            f"pools.default.instanceTypes holds {wrong}, {why}",
            pool(instanceTypes=[legal]),
        )
        for wrong, why, legal in (
            ("g6f.xlarge", "a fraction of a GPU: EC2 reports 0 GPUs", "g6.xlarge"),
            ("gr6f.4xlarge", "a fraction of a GPU: EC2 reports 0 GPUs", "gr6.4xlarge"),
            ("g7.2xlarge", "whose GPU needs NVIDIA driver 595", "g7e.2xlarge"),
            ("p3.2xlarge", "whose GPU is older than Turing", "p4d.24xlarge"),
            ("g5g.xlarge", "an arm64 machine", "g5.xlarge"),
            ("p6e-gb200.36xlarge", "an arm64 machine", "p6-b200.48xlarge"),
            ("g4ad.xlarge", "an AMD GPU", "g4dn.xlarge"),
        )
    ],
    *[
        Refusal(
            pool(instanceFamilies=[wrong]),
            f"pools.default.instanceFamilies holds {wrong}, {why}",
            pool(instanceFamilies=[legal]),
        )
        for wrong, why, legal in (
            ("g6f", "a fraction", "g6"),
            ("gr6f", "a fraction", "gr6"),
            ("g7", "whose GPU needs NVIDIA driver 595", "g7e"),
            ("g3s", "whose GPU is older", "g4dn"),
            ("p3dn", "whose GPU is older", "p4d"),
            ("g5g", "an arm64", "g5"),
            ("g4ad", "an AMD GPU", "g4dn"),
        )
    ],
    Refusal(
        {"poolDefaults": {"instanceTypes": ["g6f.xlarge"]}},
        "pools.default.instanceTypes holds g6f.xlarge",
        {"poolDefaults": {"instanceTypes": ["g6.xlarge"]}},
    ),
    Refusal(
        pool(instanceTypes=["g5.xlarge"], instanceFamilies=["g6"]),
        "pools.default has instanceTypes and instanceFamilies, which exclude each other.",
        {"poolDefaults": {"instanceTypes": ["g5.xlarge"]}, **pool(instanceFamilies=["g6"])},
    ),
    Refusal(
        {"nodeInstanceProfile": "profile"},
        "nodeRole=comfyui-node and nodeInstanceProfile=profile exclude each other: both set the IAM role of the nodes.",
        {"nodeInstanceProfile": "profile", "nodeRole": ""},
    ),
    Refusal({"pools": {"default": None}}, "pools is empty", {"pools": {"default": None, "video": {}}}),
    Refusal(
        pool(nodeClass="big"),
        "pools.default.nodeClass=big is not a key of nodeClasses (default)",
        {**pool(nodeClass="big"), "nodeClasses": {"big": {}}},
    ),
    *[
        Refusal({"tags": {key: "x"}}, f"tags holds {key}", {"tags": {f"example.com/{key}": "x"}})
        for key in ("ComfyUIModelSync", "karpenter.sh/nodepool", "kubernetes.io/cluster/x", "eks:eks-cluster-name")
    ],
    *[
        Refusal(pool(labels={key: "x"}), f"pools.default.labels holds {key}, {_OWN}", pool(labels={f"{key}-2": "x"}))
        for key in ("nvidia.com/gpu.present", "comfyui-on-eks/pool")
    ],
    Refusal(
        {"pools": {"p" * 32: {}}},
        "64 characters; it is a label of its nodes, which can have 63",
        {"pools": {"p" * 32: {}}},
        "r" * 31,
        "r" * 30,
    ),
    # How many exactly: test_user_data.py.
    Refusal(part(8192), "bytes, 8192 are allowed", part(4000)),
    *[
        Refusal(
            {"nodeClassDefaults": {"extraUserData": [wrong]}},
            "extraUserData[0] must have exactly the keys contentType and content",
            part(1),
        )
        for wrong in ({"content": "x"}, {"contentType": "x", "content": 1}, {"contentType": "x"})
    ],
    # Schema
    Refusal(pool(instanceType=[]), "at '/pools/default': additional properties 'instanceType'", pool()),
    Refusal(
        pool(instanceTypes=[]),
        "at '/pools/default/instanceTypes': minItems: got 0, want 1",
        pool(instanceTypes=["g5.xlarge"]),
    ),
    Refusal(pool(instanceTypes=["m5.large"]), "at '/pools/default/instanceTypes/0'", pool(instanceTypes=["g5.large"])),
    Refusal(pool(capacityTypes=["cheap"]), "value must be one of 'spot', 'on-demand'", pool(capacityTypes=["spot"])),
    Refusal(pool(maxGpus=0), "at '/pools/default/maxGpus': minimum: got 0, want 1", pool(maxGpus=1)),
    Refusal({"pools": {"Default": {}}}, "invalid propertyName 'Default'", {"pools": {"default-2": {}}}),
    Refusal(
        {"nodeClassDefaults": {"amiAlias": "al2023@latest"}},
        "at '/nodeClassDefaults/amiAlias'",
        {"nodeClassDefaults": {"amiAlias": "al2023@v20260801"}},
    ),
    Refusal(
        {"modelSync": {"files": {"program": {"sha256": "abc"}}}},
        "at '/modelSync/files/program/sha256'",
        {"modelSync": {"files": {"program": {"sha256": "a" * 64}}}},
    ),
    Refusal({"modelSync": {"region": "us west"}}, "at '/modelSync/region'", {"modelSync": {"region": "us-west-1"}}),
    *[
        Refusal(
            {"nodeClassDefaults": sync_settings(**{wrong: "1GB"})},
            f"at '/nodeClassDefaults/modelSync/settings': additional properties '{wrong}' not allowed",
            {"nodeClassDefaults": sync_settings(budget="1GB")},
        )
        for wrong in ("bugdet", "BUDGET")
    ],
    *[
        Refusal(sync_settings(**{key: wrong}), f"at '/modelSync/settings/{key}{words}", sync_settings(**{key: legal}))
        for key, wrong, words, legal in (
            ("firstSet", "vae/", "': got string, want array", ["vae/"]),
            ("keep", [1], "/0': got number, want string", ["loras/1"]),
            ("budget", "many", "': 'many' does not match pattern", "1.5 TiB"),
            ("imageReserve", ["1GB"], "': got array, want", 10**9),
            ("scratchReserve", -1, "': minimum: got -1, want 0", 0),
        )
    ],
    *[
        Refusal(
            sync_settings(priority=[wrong]),
            f'modelSync.settings.priority holds "{shown}"',
            sync_settings(priority=[legal]),
        )
        for wrong, shown, legal in (
            ("vae", "vae", "vae/"),
            ("vae//a", "vae//a", "vae/a"),
            ("../vae/", "../vae/", "vae/"),
            ("vae/a\n", "vae/a\\n", "vae/字 a"),
        )
    ],
    Refusal(
        {"nodeClasses": {"default": sync_settings(keep=["/loras/"])}},
        'nodeClasses.default.modelSync.settings.keep holds "/loras/"',
        {"nodeClasses": {"default": sync_settings(keep=["loras/"])}},
    ),
    Refusal(
        {"nodeClassDefaults": sync_settings(keep=["loras/.x"])},
        'nodeClassDefaults.modelSync.settings.keep holds "loras/.x"',
        {"nodeClassDefaults": sync_settings(keep=["loras/x."])},
    ),
]


REFUSALS = [*[("comfyui", refusal) for refusal in COMFYUI], *[("karpenter-gpu", refusal) for refusal in KARPENTER_GPU]]
RENDER = {"comfyui": comfyui, "karpenter-gpu": node_pools}
