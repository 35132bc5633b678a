"""Each bridge has a probe: a small piece of behaviour as AWS shows it.

It fails on the emulator as published (otherwise the bridge can go) and passes on the local AWS.
"""

from __future__ import annotations

import io
import json
import time
import uuid
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import requests
from botocore.exceptions import ClientError

from comfyeks_local.emulators import bridges
from comfyeks_local.emulators.local_aws import LocalAws

Clients = Callable[[str], Any]
PROBES: dict[str, Callable[[Clients], bool]] = {}

ALL = [bridge.name for emulator in ("moto", "ministack") for bridge in bridges.load(emulator)]


def probe(name: str) -> Callable[[Callable[[Clients], bool]], Callable[[Clients], bool]]:
    def register(function: Callable[[Clients], bool]) -> Callable[[Clients], bool]:
        PROBES[name] = function
        return function

    return register


def unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def network(clients: Clients) -> tuple[str, list[str], str]:
    """(VPC id, subnet ids, security group id)."""
    ec2 = clients("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.0.{i}.0/24", AvailabilityZone=f"us-west-2{zone}")["Subnet"]
        for i, zone in enumerate("ab")
    ]
    group = ec2.create_security_group(GroupName=unique("nodes"), Description="nodes", VpcId=vpc)["GroupId"]
    return vpc, [subnet["SubnetId"] for subnet in subnets], group


def cluster(clients: Clients, **settings: Any) -> dict[str, Any]:
    _, subnets, _ = network(clients)
    eks = clients("eks")
    made = eks.create_cluster(name=unique("c"), roleArn=ROLE, resourcesVpcConfig={"subnetIds": subnets}, **settings)[
        "cluster"
    ]
    described: dict[str, Any] = eks.describe_cluster(name=made["name"])["cluster"]
    return described


ROLE = "arn:aws:iam::123456789012:role/any"
DOCUMENT = {
    "schemaVersion": "2.2",
    "parameters": {"action": {"type": "String", "allowedValues": ["sync", "status"]}},
    "mainSteps": [{"name": "run", "action": "aws:runShellScript", "inputs": {"runCommand": ["true"]}}],
}


@probe("ssm-run-command")
def run_command(clients: Clients) -> bool:
    ssm, ec2, name = clients("ssm"), clients("ec2"), unique("document")
    ssm.create_document(Name=name, DocumentType="Command", Content=json.dumps(DOCUMENT), DocumentFormat="JSON")
    tag = {"Key": "Probe", "Value": name}
    running, stopped = (
        instance["InstanceId"]
        for instance in ec2.run_instances(
            ImageId="ami-12345678",
            MinCount=2,
            MaxCount=2,
            TagSpecifications=[{"ResourceType": "instance", "Tags": [tag]}],
        )["Instances"]
    )
    ec2.stop_instances(InstanceIds=[stopped])
    command = ssm.send_command(
        DocumentName=name, Targets=[{"Key": "tag:Probe", "Values": [name]}], Parameters={"action": ["sync"]}
    )["Command"]
    targets_only_what_runs = command["TargetCount"] == 1
    waits = ssm.get_command_invocation(CommandId=command["CommandId"], InstanceId=running)["Status"] == "Pending"
    try:
        ssm.send_command(DocumentName=name, InstanceIds=[running], Parameters={"action": ["rm -rf /"]})
        checks_parameters = False
    except ssm.exceptions.InvalidParameters:
        checks_parameters = True
    try:
        ssm.send_command(DocumentName=unique("none"), InstanceIds=[running])
        checks_document = False
    except ssm.exceptions.InvalidDocument:
        checks_document = True
    try:
        [listed] = ssm.list_command_invocations(CommandId=command["CommandId"], Details=True)["CommandInvocations"]
        lists = listed["InstanceId"] == running and listed["CommandPlugins"][0]["Name"] == "run"
    except (ClientError, NotImplementedError):
        lists = False
    return all((targets_only_what_runs, waits, checks_parameters, checks_document, lists))


@probe("eks-ami-parameters")
def eks_ami_parameters(clients: Clients) -> bool:
    ssm, ec2 = clients("ssm"), clients("ec2")
    base = "/aws/service/eks/optimized-ami/1.36/amazon-linux-2023"
    for path in (
        "arm64/standard/recommended",
        "x86_64/nvidia/amazon-eks-node-al2023-x86_64-nvidia-1.36-v20261101",
    ):
        try:
            image = ssm.get_parameter(Name=f"{base}/{path}/image_id")["Parameter"]["Value"]
        except ssm.exceptions.ParameterNotFound:
            return False
        [found] = ec2.describe_images(ImageIds=[image])["Images"]
        if found["Architecture"] != path.partition("/")[0]:
            return False
    return True


@probe("launch-template-own-tags")
def launch_template_own_tags(clients: Clients) -> bool:
    ec2, name = clients("ec2"), unique("template")
    ec2.create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={"InstanceType": "g5.2xlarge"},
        TagSpecifications=[{"ResourceType": "launch-template", "Tags": [{"Key": "Deployment", "Value": "x"}]}],
    )
    [version] = ec2.describe_launch_template_versions(LaunchTemplateName=name)["LaunchTemplateVersions"]
    [template] = ec2.describe_launch_templates(LaunchTemplateNames=[name])["LaunchTemplates"]
    assert template["Tags"] == [{"Key": "Deployment", "Value": "x"}]
    return not version["LaunchTemplateData"].get("TagSpecifications")


@probe("launch-template-changed-tags")
def launch_template_changed_tags(clients: Clients) -> bool:
    ec2, name = clients("ec2"), unique("template")
    template = ec2.create_launch_template(
        LaunchTemplateName=name,
        LaunchTemplateData={"InstanceType": "g5.2xlarge"},
        TagSpecifications=[{"ResourceType": "launch-template", "Tags": [{"Key": "Deployment", "Value": "x"}]}],
    )["LaunchTemplate"]
    ec2.create_tags(Resources=[template["LaunchTemplateId"]], Tags=[{"Key": "CostCentre", "Value": "y"}])
    ec2.delete_tags(Resources=[template["LaunchTemplateId"]], Tags=[{"Key": "Deployment"}])
    [described] = ec2.describe_launch_templates(LaunchTemplateNames=[name])["LaunchTemplates"]
    return bool(described["Tags"] == [{"Key": "CostCentre", "Value": "y"}])


@probe("fleet-security-groups")
def fleet_security_groups(clients: Clients) -> bool:
    ec2, name = clients("ec2"), unique("template")
    _, [subnet, _], group = network(clients)
    interface = {"DeviceIndex": 0, "Groups": [group], "AssociatePublicIpAddress": False}
    ec2.create_launch_template(
        LaunchTemplateName=name, LaunchTemplateData={"ImageId": "ami-12345678", "NetworkInterfaces": [interface]}
    )
    fleet = ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "$Latest"},
                "Overrides": [{"InstanceType": "g5.2xlarge", "SubnetId": subnet}],
            }
        ],
        TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "on-demand"},
    )
    [reservation] = ec2.describe_instances(InstanceIds=fleet["Instances"][0]["InstanceIds"])["Reservations"]
    return [each["GroupId"] for each in reservation["Instances"][0]["SecurityGroups"]] == [group]


def fleet_of(clients: Clients, lifecycle: str) -> Any:
    """An instant fleet of one instance."""
    ec2, name = clients("ec2"), unique("template")
    _, [subnet, _], _ = network(clients)
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": "ami-12345678"})
    config = {
        "LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "$Latest"},
        "Overrides": [{"InstanceType": "g5.2xlarge", "SubnetId": subnet}],
    }
    target = {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": lifecycle}
    return ec2.create_fleet(Type="instant", LaunchTemplateConfigs=[config], TargetCapacitySpecification=target)


@probe("fleet-launch-template-tags")
def fleet_launch_template_tags(clients: Clients) -> bool:
    [instance_id] = fleet_of(clients, "on-demand")["Instances"][0]["InstanceIds"]
    [reservation] = clients("ec2").describe_instances(InstanceIds=[instance_id])["Reservations"]
    tags = {tag["Key"] for tag in reservation["Instances"][0].get("Tags", [])}
    return {"aws:ec2launchtemplate:id", "aws:ec2launchtemplate:version"} <= tags


@probe("fleet-capacity")
def fleet_capacity(clients: Clients) -> bool:
    shortages = f"{clients('ec2').meta.endpoint_url}/_local/shortages"
    try:
        requests.put(shortages, json=[["spot", "g5.*"]], timeout=10)
        without = fleet_of(clients, "spot")
        codes = {error["ErrorCode"] for error in without.get("Errors", [])}
        other = fleet_of(clients, "on-demand")
    finally:
        requests.put(shortages, json=[], timeout=10)
    return not without.get("Instances") and codes == {"InsufficientInstanceCapacity"} and bool(other["Instances"])


@probe("eks-cluster-security-group")
def eks_cluster_security_group(clients: Clients) -> bool:
    made = cluster(clients)
    groups = clients("ec2").describe_security_groups(
        Filters=[{"Name": "group-id", "Values": [made["resourcesVpcConfig"]["clusterSecurityGroupId"]]}]
    )["SecurityGroups"]
    in_its_vpc = [group["VpcId"] for group in groups] == [made["resourcesVpcConfig"]["vpcId"]]
    clients("eks").delete_cluster(name=made["name"])
    remaining = clients("ec2").describe_security_groups(
        Filters=[{"Name": "tag:aws:eks:cluster-name", "Values": [made["name"]]}]
    )["SecurityGroups"]
    return in_its_vpc and not remaining


@probe("eks-upgrade-policy")
def eks_upgrade_policy(clients: Clients) -> bool:
    return bool(
        cluster(clients, upgradePolicy={"supportType": "STANDARD"}).get("upgradePolicy") == {"supportType": "STANDARD"}
    )


@probe("eks-node-group-launch-template")
def eks_node_group_launch_template(clients: Clients) -> bool:
    name, eks, group = cluster(clients)["name"], clients("eks"), unique("group")
    template = clients("ec2").create_launch_template(
        LaunchTemplateName=unique("template"), LaunchTemplateData={"ImageId": "ami-12345678"}
    )["LaunchTemplate"]
    _, subnets, _ = network(clients)
    eks.create_nodegroup(
        clusterName=name,
        nodegroupName=group,
        subnets=subnets,
        nodeRole=ROLE,
        launchTemplate={"id": template["LaunchTemplateId"], "version": "1"},
        updateConfig={"maxUnavailable": 1},
    )
    described = eks.describe_nodegroup(clusterName=name, nodegroupName=group)["nodegroup"]
    expected = {"id": template["LaunchTemplateId"], "name": template["LaunchTemplateName"], "version": "1"}
    return described.get("launchTemplate") == expected and described.get("updateConfig") == {"maxUnavailable": 1}


@probe("eks-addon-pod-identity")
def eks_addon_pod_identity(clients: Clients) -> bool:
    name, eks = cluster(clients)["name"], clients("eks")
    eks.create_addon(
        clusterName=name,
        addonName="aws-mountpoint-s3-csi-driver",
        podIdentityAssociations=[{"serviceAccount": "s3-csi-driver-sa", "roleArn": ROLE}],
    )
    addon = eks.describe_addon(clusterName=name, addonName="aws-mountpoint-s3-csi-driver")["addon"]
    associations = eks.list_pod_identity_associations(clusterName=name)["associations"]
    owned = [each["associationArn"] for each in associations if each.get("ownerArn") == addon["addonArn"]]
    eks.delete_addon(clusterName=name, addonName="aws-mountpoint-s3-csi-driver")
    gone = not eks.list_pod_identity_associations(clusterName=name)["associations"]
    return len(owned) == 1 and addon["podIdentityAssociations"] == owned and gone


@probe("eks-updates")
def eks_updates(clients: Clients) -> bool:
    name, eks, group = cluster(clients)["name"], clients("eks"), unique("group")
    _, subnets, _ = network(clients)
    size = {"minSize": 2, "maxSize": 2, "desiredSize": 2}
    eks.create_nodegroup(clusterName=name, nodegroupName=group, subnets=subnets, nodeRole=ROLE, scalingConfig=size)
    of_group = {"clusterName": name, "nodegroupName": group}
    access = {"endpointPublicAccess": True, "publicAccessCidrs": ["203.0.113.0/24"]}
    try:
        update = eks.update_cluster_config(name=name, resourcesVpcConfig=access)["update"]
        status = eks.describe_update(name=name, updateId=update["id"])["update"]["status"]
        eks.update_nodegroup_config(**of_group, scalingConfig={**size, "maxSize": 3})
    except ClientError:
        return False
    network_of = eks.describe_cluster(name=name)["cluster"]["resourcesVpcConfig"]
    sizes = eks.describe_nodegroup(**of_group)["nodegroup"]["scalingConfig"]
    return bool(status == "Successful" and access.items() <= network_of.items() and sizes["maxSize"] == 3)


@probe("eks-tags")
def eks_tags(clients: Clients) -> bool:
    eks, tags, later = clients("eks"), {"Deployment": "x"}, {"CostCentre": "y"}
    made = cluster(clients, tags=tags)
    of_cluster, name = {"clusterName": made["name"]}, unique("addon")
    eks.create_addon(**of_cluster, addonName=name, tags=tags)
    association = eks.create_pod_identity_association(
        **of_cluster, namespace="n", serviceAccount="s", roleArn=ROLE, tags=tags
    )["association"]
    described = [
        lambda: eks.describe_cluster(name=made["name"])["cluster"],
        lambda: eks.describe_addon(**of_cluster, addonName=name)["addon"],
        lambda: eks.describe_pod_identity_association(**of_cluster, associationId=association["associationId"])[
            "association"
        ],
    ]
    try:
        for describe in described:
            arn = next(value for key, value in describe().items() if key in ("arn", "addonArn", "associationArn"))
            eks.tag_resource(resourceArn=arn, tags=later)
            eks.untag_resource(resourceArn=arn, tagKeys=["Deployment"])
            assert eks.list_tags_for_resource(resourceArn=arn)["tags"] == later
    except ClientError:
        return False
    return all(describe()["tags"] == later for describe in described)


@probe("lambda-sqs-batches")
def lambda_sqs_batches(clients: Clients) -> bool:
    """30 messages within the window are one invocation."""
    sqs, functions, name = clients("sqs"), clients("lambda"), unique("batches")
    queue = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
    seen = sqs.create_queue(QueueName=f"{name}-seen")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr(
            "app.py",
            "import boto3, os\n"
            "def handler(event, context):\n"
            "    sqs = boto3.client('sqs', endpoint_url=os.environ['ENDPOINT'])\n"
            "    sqs.send_message(QueueUrl=os.environ['SEEN'], MessageBody=str(len(event['Records'])))\n",
        )
    functions.create_function(
        FunctionName=name,
        Runtime="python3.11",
        Role=ROLE,
        Handler="app.handler",
        Code={"ZipFile": code.getvalue()},
        Timeout=30,
        Environment={"Variables": {"SEEN": seen, "ENDPOINT": sqs.meta.endpoint_url}},
    )
    for start in (0, 10, 20):
        entries = [{"Id": str(i), "MessageBody": str(i)} for i in range(start, start + 10)]
        sqs.send_message_batch(QueueUrl=queue, Entries=entries)
    functions.create_event_source_mapping(
        EventSourceArn=arn, FunctionName=name, BatchSize=1000, MaximumBatchingWindowInSeconds=1
    )
    sizes: list[int] = []
    deadline = time.monotonic() + 20
    while sum(sizes) < 30 and time.monotonic() < deadline:
        answer = sqs.receive_message(QueueUrl=seen, MaxNumberOfMessages=10, WaitTimeSeconds=1)
        sizes += [int(message["Body"]) for message in answer.get("Messages", [])]
    functions.delete_function(FunctionName=name)
    assert sum(sizes) == 30
    return sizes == [30]


@probe("s3-delete-event-fields")
def s3_delete_event_fields(clients: Clients) -> bool:
    s3, sqs, name = clients("s3"), clients("sqs"), unique("bucket")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    queue = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3.put_bucket_notification_configuration(
        Bucket=name,
        NotificationConfiguration={"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectRemoved:*"]}]},
    )
    s3.put_object(Bucket=name, Key="loras/a.safetensors", Body=b"x")
    s3.delete_object(Bucket=name, Key="loras/a.safetensors")
    while messages := sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=2).get("Messages"):
        body = json.loads(messages[0]["Body"])
        if "Records" in body:
            [record] = body["Records"]
            assert record["s3"]["object"]["key"] == "loras/a.safetensors"
            return not {"size", "eTag"} & record["s3"]["object"].keys()
        sqs.delete_message(QueueUrl=queue, ReceiptHandle=messages[0]["ReceiptHandle"])
    raise AssertionError("no delete event arrived")


@probe("vpc-endpoint-services")
def vpc_endpoint_services(clients: Clients) -> bool:
    try:
        answer = clients("ec2").describe_vpc_endpoint_services(
            Filters=[{"Name": "service-type", "Values": ["Interface"]}], MaxResults=1000
        )
    except ModuleNotFoundError:  # inside this process; over HTTP it is a 500
        return False
    wanted = {f"com.amazonaws.us-west-2.{name}" for name in ("ecr.api", "ecr.dkr", "eks-auth", "logs", "ssmmessages")}
    return wanted <= set(answer["ServiceNames"])


@probe("gpu-quotas")
def gpu_quotas(clients: Clients) -> bool:
    quotas = clients("service-quotas")
    try:
        found = [
            quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]
            for code in ("L-DB2E81BA", "L-3819A6DF")
        ]
    except quotas.exceptions.NoSuchResourceException:
        return False
    return all(quota["Value"] > 0 for quota in found)


@probe("spot-role-name")
def spot_role_name(clients: Clients) -> bool:
    iam = clients("iam")
    try:
        role = iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com")["Role"]["RoleName"]
    except iam.exceptions.InvalidInputException:  # an earlier test created it
        role = iam.get_role(RoleName="AWSServiceRoleForEC2Spot")["Role"]["RoleName"]
    return bool(role == "AWSServiceRoleForEC2Spot")


@probe("codebuild-project-settings")
def codebuild_project_settings(clients: Clients) -> bool:
    codebuild, name = clients("codebuild"), unique("image")
    made = codebuild.create_project(
        name=name,
        source={"type": "NO_SOURCE"},
        artifacts={"type": "NO_ARTIFACTS"},
        environment={"type": "LINUX_CONTAINER", "image": "i", "computeType": "BUILD_GENERAL1_SMALL"},
        serviceRole=ROLE,
        logsConfig={"cloudWatchLogs": {"status": "ENABLED", "groupName": "g"}},
    )["project"]
    [project] = codebuild.batch_get_projects(names=[name])["projects"]
    kept = project.get("logsConfig", {}).get("cloudWatchLogs", {}).get("groupName") == "g"
    try:
        codebuild.delete_project(name=made["arn"])
    except ClientError:
        codebuild.delete_project(name=name)
        return False
    return bool(kept and project["queuedTimeoutInMinutes"] == 480)


def load_balancer(clients: Clients, kind: str) -> dict[str, Any]:
    _, subnets, group = network(clients)
    made = clients("elbv2").create_load_balancer(
        Name=unique("lb"), Subnets=subnets, SecurityGroups=[group], Scheme="internal", Type=kind
    )
    balancer: dict[str, Any] = made["LoadBalancers"][0]
    return balancer


@probe("security-group-rule-descriptions")
def security_group_rule_descriptions(clients: Clients) -> bool:
    ec2 = clients("ec2")
    vpc, _, group = network(clients)
    other = ec2.create_security_group(GroupName=unique("other"), Description="other", VpcId=vpc)["GroupId"]
    named = "com.amazonaws.global.cloudfront.origin-facing"
    filters = [{"Name": "prefix-list-name", "Values": [named]}]
    [prefix_list] = ec2.describe_managed_prefix_lists(Filters=filters)["PrefixLists"]
    peers: tuple[dict[str, Any], ...] = (
        {"IpRanges": [{"CidrIp": "10.0.0.0/16", "Description": "why"}]},
        {"UserIdGroupPairs": [{"GroupId": other, "Description": "why"}]},
        {"PrefixListIds": [{"PrefixListId": prefix_list["PrefixListId"], "Description": "why"}]},
    )
    for peer in peers:
        permission = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, **peer}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[permission])
    rules = ec2.describe_security_group_rules(Filters=[{"Name": "group-id", "Values": [group]}])["SecurityGroupRules"]
    return [rule.get("Description") for rule in rules if not rule["IsEgress"]] == ["why"] * 3


@probe("privatelink-rules-of-load-balancer")
def privatelink_rules_of_load_balancer(clients: Clients) -> bool:
    elb, member = clients("elbv2"), "EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"
    arn = load_balancer(clients, "network")["LoadBalancerArn"]
    [before] = elb.describe_load_balancers(LoadBalancerArns=[arn])["LoadBalancers"]
    elb.set_security_groups(LoadBalancerArn=arn, SecurityGroups=before["SecurityGroups"], **{member: "off"})
    [after] = elb.describe_load_balancers(LoadBalancerArns=[arn])["LoadBalancers"]
    return (before.get(member), after.get(member)) == ("on", "off")


@probe("vpc-origin-load-balancer")
def vpc_origin_load_balancer(clients: Clients) -> bool:
    cloudfront, balancer = clients("cloudfront"), load_balancer(clients, "application")
    config = {"HTTPPort": 80, "HTTPSPort": 443, "OriginProtocolPolicy": "http-only"}

    def takes(arn: str) -> bool:
        try:
            cloudfront.create_vpc_origin(VpcOriginEndpointConfig={"Name": unique("origin"), "Arn": arn, **config})
        except ClientError as error:
            return "LoadBalancerNotFound" not in str(error)
        return True

    assert not takes(balancer["LoadBalancerArn"].replace("app/lb-", "app/none-"))
    return takes(balancer["LoadBalancerArn"])


@probe("cognito-mfa-off")
def cognito_mfa_off(clients: Clients) -> bool:
    cognito = clients("cognito-idp")
    pool = cognito.create_user_pool(PoolName=unique("pool"))["UserPool"]["Id"]
    on = {"MfaConfiguration": "ON", "SoftwareTokenMfaConfiguration": {"Enabled": True}}
    assert cognito.set_user_pool_mfa_config(UserPoolId=pool, **on)["MfaConfiguration"] == "ON"
    cognito.set_user_pool_mfa_config(UserPoolId=pool, MfaConfiguration="OFF")
    return "SoftwareTokenMfaConfiguration" not in cognito.get_user_pool_mfa_config(UserPoolId=pool)


@probe("efs-policy-removal")
def efs_policy_removal(clients: Clients) -> bool:
    efs = clients("efs")
    made = efs.create_file_system(CreationToken=unique("models"))["FileSystemId"]
    efs.put_file_system_policy(FileSystemId=made, Policy='{"Version": "2012-10-17", "Statement": []}')
    try:
        efs.delete_file_system_policy(FileSystemId=made)
        efs.describe_file_system_policy(FileSystemId=made)
    except efs.exceptions.PolicyNotFound:
        return True
    except (ClientError, NotImplementedError):
        return False
    return False


def test_every_bridge_has_a_probe_and_every_probe_a_bridge() -> None:
    assert sorted(PROBES) == sorted(ALL)


@pytest.mark.parametrize("name", ALL)
def test_the_gap_is_still_there_without_the_bridge(name: str, plain_emulators: Clients) -> None:
    emulator = bridges.BRIDGES[name].emulator
    assert not PROBES[name](plain_emulators), f"newer {emulator} no longer needs bridge {name}: delete it"


@pytest.mark.local
@pytest.mark.parametrize("name", ALL)
def test_the_bridge_answers_as_aws_does(name: str, local_aws: LocalAws) -> None:
    assert PROBES[name](local_aws.client)
