"""Import ids: how a resource that an interrupted Terraform was creating is found in the account.

A lookup gets the resource's planned arguments and returns the id that `terraform import` takes, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import boto3

from comfyeks.errors import OperationError

Values = Mapping[str, Any]  # a resource's arguments, as planned
ImportId = str
Lookup = Callable[[Values, str], ImportId | None]


def _by(*names: str, between: str = ":") -> Lookup:
    """The import id consists of planned arguments."""
    return lambda values, _: between.join(str(values[name]) for name in names)


def _ec2(operation: str, list_name: str, id_name: str, *, in_vpc: bool = False, **more: list[str]) -> Lookup:
    """EC2 resources get their tags on creation: Name and Deployment identify ours.

    The resources are described, with `more` filters, and not their tags: tags outlive the resource.
    """

    def find(values: Values, region: str) -> ImportId | None:
        tags = values["tags_all"]
        wanted = {f"tag:{key}": [tags[key]] for key in ("Name", "Deployment")} | more
        if in_vpc:
            wanted["vpc-id"] = [values["vpc_id"]]
        filters = [{"Name": name.replace("_", "-"), "Values": found} for name, found in wanted.items()]
        answer = getattr(boto3.client("ec2", region_name=region), operation)(Filters=filters)
        return _only([resource[id_name] for resource in answer[list_name]], f"{tags['Name']} of {tags['Deployment']}")

    return find


def _only(ids: list[str], what: str) -> str | None:
    """The only id; None for no id. Raises OperationError for several."""
    if len(ids) > 1:
        raise OperationError(
            f"an interrupted run may have created {what}, but {len(ids)} resources match and cannot be told apart: "
            f"{', '.join(sorted(ids))}. Delete all but one, then run the same command again"
        )
    return ids[0] if ids else None


def _launch_template(values: Values, region: str) -> ImportId | None:
    templates = boto3.client("ec2", region_name=region).describe_launch_templates(
        Filters=[{"Name": "launch-template-name", "Values": [values["name"]]}]
    )["LaunchTemplates"]
    return templates[0]["LaunchTemplateId"] if templates else None


def _security_group_rule(*, egress: bool) -> Lookup:
    """The rule of the security group with the same direction, protocol, ports and peer."""

    def find(values: Values, region: str) -> ImportId | None:
        rules = boto3.client("ec2", region_name=region).describe_security_group_rules(
            Filters=[{"Name": "group-id", "Values": [values["security_group_id"]]}]
        )["SecurityGroupRules"]
        names = ("ip_protocol", "from_port", "to_port", "cidr_ipv4", "prefix_list_id", "referenced_security_group_id")
        wanted = (egress, *(values.get(name) for name in names))
        for rule in rules:
            found = (
                rule["IsEgress"],
                rule["IpProtocol"],
                rule.get("FromPort"),
                rule.get("ToPort"),
                rule.get("CidrIpv4"),
                rule.get("PrefixListId"),
                rule.get("ReferencedGroupInfo", {}).get("GroupId"),
            )
            if found == wanted:
                return rule["SecurityGroupRuleId"]
        return None

    return find


def _kms_key(values: Values, region: str) -> ImportId | None:
    """The enabled key with that description; the description holds the deployment's name."""
    kms = boto3.client("kms", region_name=region)
    keys = (key["KeyId"] for page in kms.get_paginator("list_keys").paginate() for key in page["Keys"])
    known = (kms.describe_key(KeyId=key)["KeyMetadata"] for key in keys)
    found = [
        key["KeyId"]
        for key in known
        if key.get("Description") == values["description"] and key["KeyState"] == "Enabled"
    ]
    return _only(found, f"the KMS key for {values['description']!r}")


def _pod_identity_association(values: Values, region: str) -> ImportId | None:
    eks = boto3.client("eks", region_name=region)
    found = eks.list_pod_identity_associations(
        clusterName=values["cluster_name"], namespace=values["namespace"], serviceAccount=values["service_account"]
    )["associations"]
    return f"{values['cluster_name']},{found[0]['associationId']}" if found else None


def _file_system(values: Values, region: str) -> ImportId | None:
    found = boto3.client("efs", region_name=region).describe_file_systems(CreationToken=values["creation_token"])
    return found["FileSystems"][0]["FileSystemId"] if found["FileSystems"] else None


def _mount_target(values: Values, region: str) -> ImportId | None:
    targets = boto3.client("efs", region_name=region).describe_mount_targets(FileSystemId=values["file_system_id"])
    return next(
        (t["MountTargetId"] for t in targets["MountTargets"] if t["SubnetId"] == values["subnet_id"]),
        None,
    )


def _queue(values: Values, region: str) -> ImportId | None:
    sqs = boto3.client("sqs", region_name=region)
    try:
        return sqs.get_queue_url(QueueName=values["name"])["QueueUrl"]
    except sqs.exceptions.QueueDoesNotExist:
        return None


def _topic(values: Values, region: str) -> ImportId | None:
    pages = boto3.client("sns", region_name=region).get_paginator("list_topics").paginate()
    topics = (topic["TopicArn"] for page in pages for topic in page["Topics"])
    return next((arn for arn in topics if arn.rpartition(":")[2] == values["name"]), None)


def _budget(values: Values, region: str) -> ImportId:
    account = boto3.client("sts", region_name=region).get_caller_identity()["Account"]
    return f"{account}:{values['name']}"


def _elb(operation: str, thing: str) -> Lookup:
    """Names are unique in a region. This service answers an unknown name with an error."""

    def find(values: Values, region: str) -> ImportId | None:
        elb = boto3.client("elbv2", region_name=region)
        try:
            found = getattr(elb, operation)(Names=[values["name"]])[f"{thing}s"]
        except getattr(elb.exceptions, f"{thing}NotFoundException"):
            return None
        return found[0][f"{thing}Arn"] if found else None

    return find


def _listener(values: Values, region: str) -> ImportId | None:
    listeners = boto3.client("elbv2", region_name=region).describe_listeners(
        LoadBalancerArn=values["load_balancer_arn"]
    )["Listeners"]
    return next((each["ListenerArn"] for each in listeners if each["Port"] == values["port"]), None)


def _user_pool(values: Values, region: str) -> ImportId | None:
    cognito = boto3.client("cognito-idp", region_name=region)
    pools = (
        pool for page in cognito.get_paginator("list_user_pools").paginate(MaxResults=60) for pool in page["UserPools"]
    )
    return _only([pool["Id"] for pool in pools if pool["Name"] == values["name"]], f"user pool {values['name']}")


def _user_pool_client(values: Values, region: str) -> ImportId | None:
    pool = values["user_pool_id"]
    clients = boto3.client("cognito-idp", region_name=region).list_user_pool_clients(UserPoolId=pool, MaxResults=60)
    return next(
        (f"{pool}/{each['ClientId']}" for each in clients["UserPoolClients"] if each["ClientName"] == values["name"]),
        None,
    )


def _distribution(values: Values, _: str) -> ImportId | None:
    """The comment holds the deployment's name and region."""
    pages = boto3.client("cloudfront").get_paginator("list_distributions").paginate()
    found = (each for page in pages for each in page["DistributionList"].get("Items", []))
    return _only(
        [each["Id"] for each in found if each["Comment"] == values["comment"]], f"distribution {values['comment']!r}"
    )


def _vpc_origin(values: Values, _: str) -> ImportId | None:
    origins = boto3.client("cloudfront").list_vpc_origins()["VpcOriginList"].get("Items", [])
    name = values["vpc_origin_endpoint_config"][0]["name"]
    return next((origin["Id"] for origin in origins if origin["Name"] == name), None)


def _web_acl(values: Values, _: str) -> ImportId | None:
    return _waf(boto3.client("wafv2", region_name="us-east-1").list_web_acls(Scope="CLOUDFRONT")["WebACLs"], values)


def _ip_set(values: Values, _: str) -> ImportId | None:
    return _waf(boto3.client("wafv2", region_name="us-east-1").list_ip_sets(Scope="CLOUDFRONT")["IPSets"], values)


def _waf(listed: Iterable[Mapping[str, Any]], values: Values) -> ImportId | None:
    """CloudFront's lists and sets live in us-east-1."""
    return next((f"{each['Id']}/{each['Name']}/CLOUDFRONT" for each in listed if each["Name"] == values["name"]), None)


LOOKUPS: dict[str, Lookup] = {
    "aws_budgets_budget": _budget,
    "aws_cloudfront_distribution": _distribution,
    "aws_cloudfront_vpc_origin": _vpc_origin,
    "aws_cloudwatch_event_rule": _by("name"),
    "aws_cloudwatch_event_target": _by("rule", "target_id", between="/"),
    "aws_cloudwatch_log_group": _by("name"),
    "aws_cloudwatch_metric_alarm": _by("alarm_name"),
    "aws_codebuild_project": _by("name"),
    "aws_cognito_user_pool": _user_pool,
    "aws_cognito_user_pool_client": _user_pool_client,
    "aws_cognito_user_pool_domain": _by("domain"),
    "aws_ecr_repository": _by("name"),
    "aws_efs_file_system": _file_system,
    "aws_efs_mount_target": _mount_target,
    "aws_eip": _ec2("describe_addresses", "Addresses", "AllocationId"),
    "aws_eks_access_entry": _by("cluster_name", "principal_arn"),
    "aws_eks_access_policy_association": _by("cluster_name", "principal_arn", "policy_arn", between="#"),
    "aws_eks_addon": _by("cluster_name", "addon_name"),
    "aws_eks_cluster": _by("name"),
    "aws_eks_node_group": _by("cluster_name", "node_group_name"),
    "aws_eks_pod_identity_association": _pod_identity_association,
    "aws_iam_instance_profile": _by("name"),
    "aws_iam_role": _by("name"),
    "aws_iam_role_policy": _by("role", "name"),
    "aws_iam_role_policy_attachment": _by("role", "policy_arn", between="/"),
    "aws_internet_gateway": _ec2("describe_internet_gateways", "InternetGateways", "InternetGatewayId"),
    "aws_kms_alias": _by("name"),
    "aws_kms_key": _kms_key,
    "aws_launch_template": _launch_template,
    "aws_lb": _elb("describe_load_balancers", "LoadBalancer"),
    "aws_lb_listener": _listener,
    "aws_lb_target_group": _elb("describe_target_groups", "TargetGroup"),
    "aws_nat_gateway": _ec2("describe_nat_gateways", "NatGateways", "NatGatewayId", state=["pending", "available"]),
    "aws_route": _by("route_table_id", "destination_cidr_block", between="_"),
    "aws_route_table": _ec2("describe_route_tables", "RouteTables", "RouteTableId", in_vpc=True),
    "aws_route_table_association": _by("subnet_id", "route_table_id", between="/"),
    "aws_s3_bucket": _by("bucket"),
    "aws_s3_bucket_notification": _by("bucket"),
    "aws_security_group": _ec2("describe_security_groups", "SecurityGroups", "GroupId", in_vpc=True),
    "aws_sns_topic": _topic,
    "aws_sqs_queue": _queue,
    "aws_ssm_document": _by("name"),
    "aws_subnet": _ec2("describe_subnets", "Subnets", "SubnetId", in_vpc=True),
    "aws_vpc": _ec2("describe_vpcs", "Vpcs", "VpcId"),
    "aws_vpc_endpoint": _ec2(
        "describe_vpc_endpoints",
        "VpcEndpoints",
        "VpcEndpointId",
        in_vpc=True,
        vpc_endpoint_state=["pending", "available"],
    ),
    "aws_vpc_endpoint_service": _ec2(
        "describe_vpc_endpoint_service_configurations",
        "ServiceConfigurations",
        "ServiceId",
        service_state=["Pending", "Available"],
    ),
    "aws_vpc_security_group_egress_rule": _security_group_rule(egress=True),
    "aws_vpc_security_group_ingress_rule": _security_group_rule(egress=False),
    "aws_wafv2_ip_set": _ip_set,
    "aws_wafv2_web_acl": _web_acl,
}

# The log shows the id that the provider uses internally; an import needs a different one.
IMPORTED_BY_OTHER_ID = {
    "aws_cloudwatch_event_target",
    "aws_cognito_user_pool_client",
    "aws_eks_pod_identity_association",
    "aws_iam_role_policy_attachment",
    "aws_route",
    "aws_route_table_association",
    "aws_wafv2_ip_set",
    "aws_wafv2_web_acl",
}

# Parts of another resource: they can be created again without harm and are deleted with it. Never imported.
# tests/terraform/test_interrupted_apply.py fails when a type of the roots is in neither list.
PARTS = {
    "aws_default_security_group",
    "aws_ec2_tag",
    "aws_ecr_lifecycle_policy",
    "aws_efs_file_system_policy",
    "aws_lb_target_group_attachment",
    "aws_s3_bucket_lifecycle_configuration",
    "aws_s3_bucket_logging",
    "aws_s3_bucket_ownership_controls",
    "aws_s3_bucket_policy",
    "aws_s3_bucket_public_access_block",
    "aws_s3_bucket_server_side_encryption_configuration",
    "aws_s3_bucket_versioning",
    "aws_sns_topic_subscription",
    "aws_wafv2_web_acl_logging_configuration",
}
