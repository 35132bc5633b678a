"""Bridges for EKS, which MiniStack serves; what EKS creates in EC2 is created through the EC2 API, in moto."""

from __future__ import annotations

import functools
import json
import re
import zlib
from typing import Any

from comfyeks_local.emulators.bridges import bridge

Answer = tuple[int, dict[str, str], Any]  # status, headers, JSON body

_UPDATES = re.compile(
    r"/clusters/(?P<cluster>[\w-]+)(?:/node-groups/(?P<group>[\w-]+))?"
    r"/(?:update-config|update-version|updates(?:/(?P<id>[\w-]+))?)"
)


@functools.cache
def _ec2(region: str) -> Any:
    import boto3

    return boto3.client("ec2", region_name=region)  # the endpoint comes from this process's environment


@bridge(
    "eks-cluster-security-group",
    "ministack",
    aws="Creates a security group in the cluster's VPC and returns the ids of both.",
    gap="Returns a random group id and the VPC id vpc-00000000, which do not exist in EC2.",
    needed_by="Terraform (tags the group for Karpenter's discovery), node security",
)
def eks_cluster_security_group() -> None:
    from ministack.services import eks

    create, delete = eks._create_cluster, eks._delete_cluster

    def create_cluster(body: dict[str, Any], creator_arn: str | None = None) -> Answer:
        answer: Answer = create(body, creator_arn)
        if answer[0] != 200:
            return answer
        cluster = eks._clusters[body["name"]]
        network, ec2, name = cluster["resourcesVpcConfig"], _ec2(eks.get_region()), cluster["name"]
        subnets = ec2.describe_subnets(SubnetIds=network["subnetIds"])["Subnets"]
        network["vpcId"] = subnets[0]["VpcId"]
        group_name = f"eks-cluster-sg-{name}-{zlib.crc32(cluster['arn'].encode())}"
        tags = {
            "Name": group_name,
            "aws:eks:cluster-name": name,
            f"kubernetes.io/cluster/{name}": "owned",
        }
        group = ec2.create_security_group(
            GroupName=group_name,
            Description="EKS created security group applied to ENIs of the control plane and managed workloads.",
            VpcId=network["vpcId"],
            TagSpecifications=[
                {
                    "ResourceType": "security-group",
                    "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
                }
            ],
        )["GroupId"]
        ec2.authorize_security_group_ingress(
            GroupId=group, IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}]
        )
        network["clusterSecurityGroupId"] = group
        return _json(200, {"cluster": eks._sanitize(cluster)})

    def delete_cluster(name: str) -> Answer:
        cluster = eks._clusters.get(name)
        answer: Answer = delete(name)
        if answer[0] == 200 and cluster:
            _ec2(eks.get_region()).delete_security_group(
                GroupId=cluster["resourcesVpcConfig"]["clusterSecurityGroupId"]
            )
        return answer

    eks._create_cluster, eks._delete_cluster = create_cluster, delete_cluster


@bridge(
    "eks-upgrade-policy",
    "ministack",
    aws="Keeps the cluster's upgrade policy (default EXTENDED).",
    gap="Drops it, so every plan of Terraform sets it again.",
    needed_by="a second `comfyeks infra apply` without changes",
)
def eks_upgrade_policy() -> None:
    from ministack.services import eks

    create = eks._create_cluster

    def create_cluster(body: dict[str, Any], creator_arn: str | None = None) -> Answer:
        answer: Answer = create(body, creator_arn)
        if answer[0] != 200:
            return answer
        cluster = eks._clusters[body["name"]]
        cluster["upgradePolicy"] = body.get("upgradePolicy", {"supportType": "EXTENDED"})
        return _json(200, {"cluster": eks._sanitize(cluster)})

    eks._create_cluster = create_cluster


@bridge(
    "eks-node-group-launch-template",
    "ministack",
    aws="Keeps a node group's launch template (id, name, version), update and repair settings.",
    gap="Drops them, so every plan of Terraform replaces the node group.",
    needed_by="a second `comfyeks infra apply` without changes",
)
def eks_node_group_launch_template() -> None:
    from ministack.services import eks

    create = eks._create_nodegroup

    def create_nodegroup(cluster_name: str, body: dict[str, Any]) -> Answer:
        answer: Answer = create(cluster_name, body)
        if answer[0] != 200:
            return answer
        group = eks._nodegroups[f"{cluster_name}/{body['nodegroupName']}"]
        group.update({key: body[key] for key in ("updateConfig", "nodeRepairConfig", "remoteAccess") if key in body})
        if template := body.get("launchTemplate"):
            wanted = (
                {"LaunchTemplateIds": [template["id"]]}
                if "id" in template
                else {"LaunchTemplateNames": [template["name"]]}
            )
            [known] = _ec2(eks.get_region()).describe_launch_templates(**wanted)["LaunchTemplates"]
            group["launchTemplate"] = {
                "id": known["LaunchTemplateId"],
                "name": known["LaunchTemplateName"],
                "version": template.get("version", str(known["DefaultVersionNumber"])),
            }
            group.pop("diskSize", None)  # the template decides it
        return _json(200, {"nodegroup": group})

    eks._create_nodegroup = create_nodegroup


@bridge(
    "eks-addon-pod-identity",
    "ministack",
    aws="An add-on's pod identity associations are associations owned by the add-on; it lists their ARNs.",
    gap="Returns the request's objects where ARNs belong (the provider cannot read them), and creates no association.",
    needed_by="add-ons with a role (S3 CSI driver)",
)
def eks_addon_pod_identity() -> None:
    from ministack.services import eks

    create, update, delete = eks._create_addon, eks._update_addon, eks._delete_addon

    def replace_associations(addon: dict[str, Any], wanted: list[dict[str, Any]]) -> None:
        for key, association in list(eks._pod_identity_associations.items()):
            if association["ownerArn"] == addon["addonArn"]:
                eks._pod_identity_associations.pop(key)
        arns = []
        for each in wanted:
            status, _, body = eks._create_pod_identity_association(
                addon["clusterName"], {"namespace": "kube-system", **each}
            )
            if status == 200:
                association = json.loads(body)["association"]
                key = eks._pia_key(addon["clusterName"], association["associationId"])
                eks._pod_identity_associations[key]["ownerArn"] = addon["addonArn"]
                arns.append(association["associationArn"])
        addon["podIdentityAssociations"] = arns

    def create_addon(cluster_name: str, body: dict[str, Any]) -> Answer:
        answer: Answer = create(cluster_name, body)
        if answer[0] != 200:
            return answer
        addon = eks._addons[f"{cluster_name}/{body['addonName']}"]
        replace_associations(addon, body.get("podIdentityAssociations", []))
        return _json(200, {"addon": addon})

    def update_addon(cluster_name: str, addon_name: str, body: dict[str, Any]) -> Answer:
        answer: Answer = update(cluster_name, addon_name, body)
        if answer[0] == 200 and "podIdentityAssociations" in body:
            replace_associations(eks._addons[f"{cluster_name}/{addon_name}"], body["podIdentityAssociations"])
        return answer

    def delete_addon(cluster_name: str, addon_name: str) -> Answer:
        addon = eks._addons.get(f"{cluster_name}/{addon_name}")
        if addon:
            replace_associations(addon, [])
        answer: Answer = delete(cluster_name, addon_name)
        return answer

    eks._create_addon, eks._update_addon, eks._delete_addon = create_addon, update_addon, delete_addon


@bridge(
    "eks-updates",
    "ministack",
    aws="Changes a cluster's endpoint access and logs, a node group's size and template, and describes each update.",
    gap="Does not support these calls.",
    needed_by="changed settings of a running platform (`api_allowed_cidrs`, `system_node_count`)",
)
def eks_updates() -> None:
    from ministack.services import eks

    route = eks._handle_request_sync
    updates: dict[str, dict[str, Any]] = {}

    def change(cluster: dict[str, Any], group: dict[str, Any] | None, requested: dict[str, Any]) -> None:
        if group is None:
            cluster["resourcesVpcConfig"].update(requested.get("resourcesVpcConfig", {}))
            cluster.update({key: requested[key] for key in ("logging", "upgradePolicy", "version") if key in requested})
            return
        group.update(
            {key: requested[key] for key in ("scalingConfig", "updateConfig", "nodeRepairConfig") if key in requested}
        )
        group.setdefault("launchTemplate", {}).update(requested.get("launchTemplate", {}))

    def handle(method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, Any]) -> Answer:
        match = _UPDATES.fullmatch(path)
        cluster = eks._clusters.get(match["cluster"]) if match else None
        group = eks._nodegroups.get(f"{match['cluster']}/{match['group']}") if match and match["group"] else None
        if match and match["id"] and match["id"] in updates:
            return _json(200, {"update": updates[match["id"]]})
        if not match or match["id"] or method != "POST" or cluster is None or (match["group"] and group is None):
            answer: Answer = route(method, path, headers, body, query)
            return answer
        change(cluster, group, json.loads(body))
        update = {"id": eks.new_uuid(), "status": "Successful", "type": "ConfigUpdate", "params": [], "errors": []}
        updates[update["id"]] = update
        return _json(200, {"update": update})

    eks._handle_request_sync = handle


@bridge(
    "eks-tags",
    "ministack",
    aws="Describing a resource shows tags that were added later; pod identity associations can have tags too.",
    gap="Stores them apart from the resource that it describes, and rejects associations.",
    needed_by="changed tags (`tags`) of a running platform",
)
def eks_tags() -> None:
    from ministack.services import eks

    stores = {
        "arn": eks._clusters,
        "nodegroupArn": eks._nodegroups,
        "addonArn": eks._addons,
        "accessEntryArn": eks._access_entries,
        "associationArn": eks._pod_identity_associations,
    }

    def tags_of(arn: str) -> dict[str, str] | None:
        found = (each for name, store in stores.items() for each in store.values() if each.get(name) == arn)
        tags: dict[str, str] | None = next((each.setdefault("tags", {}) for each in found), None)
        return tags

    def missing(arn: str) -> Answer:
        answer: Answer = eks._tag_resource_not_found(arn)
        return answer

    def tag(arn: str, body: dict[str, Any]) -> Answer:
        if (tags := tags_of(arn)) is None:
            return missing(arn)
        tags.update(body.get("tags", {}))
        return _json(200, {})

    def untag(arn: str, query: dict[str, Any]) -> Answer:
        if (tags := tags_of(arn)) is None:
            return missing(arn)
        keys = query.get("tagKeys", [])
        for key in [keys] if isinstance(keys, str) else keys:
            tags.pop(key, None)
        return _json(200, {})

    def listed(arn: str) -> Answer:
        return missing(arn) if (tags := tags_of(arn)) is None else _json(200, {"tags": tags})

    eks._tag_resource, eks._untag_resource, eks._list_tags = tag, untag, listed


def _json(status: int, body: dict[str, Any]) -> Answer:
    from ministack.services import eks

    answer: Answer = eks._json_resp(status, body)
    return answer
