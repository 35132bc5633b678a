"""The permissions of each role of the plan: it may do what its job needs and nothing beside it.

IAM's answer comes from an evaluator that honours conditions (tests/support/iam.py), not from reading the statements.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from comfyeks.deployment import Deployment
from tests.support.deployment import ACCOUNT, REGION
from tests.support.iam import Iam, IamError, Role

from .conftest import Plan

NAMES = Deployment(project=None, region=REGION, account=ACCOUNT)
OTHER_ACCOUNT = "444455556666"
OTHER_REGION = "eu-west-1"
EVERYTHING_REGION = "ap-southeast-1"  # of everything.tftest.hcl

MODELS, INPUTS, OUTPUTS, ARTIFACTS = (
    f"arn:aws:s3:::{NAMES.bucket(kind)}" for kind in ("models", "inputs", "outputs", "artifacts")
)
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:comfyui-model-events"
DEAD_LETTERS = f"{QUEUE}-dlq"
INTERRUPTIONS = f"arn:aws:sqs:{REGION}:{ACCOUNT}:comfyui-interruption"
CLUSTER = f"arn:aws:eks:{REGION}:{ACCOUNT}:cluster/comfyui"
EC2 = f"arn:aws:ec2:{REGION}:{ACCOUNT}"
INSTANCE = f"{EC2}:instance/i-0123456789abcdef0"

# A role policy whose name is not that of its role.
ROLE_OF = {"aws_iam_role_policy.cluster_makes_no_log_group": "aws_iam_role.cluster"}


RoleOf = Callable[[str], Role]


def roles_of(plan: Plan, iam: Iam) -> dict[str, Role]:
    """Every role of a plan by its address, e.g. `sync` or `pod["karpenter"]`."""
    policies: dict[str, list[dict[str, object]]] = {address: [] for address in plan.of_type("aws_iam_role")}
    for address, policy in plan.of_type("aws_iam_role_policy").items():
        role = ROLE_OF.get(address, address.replace("aws_iam_role_policy.", "aws_iam_role."))
        policies[role].append(json.loads(policy["policy"]))
        for statement in plan.statements(address).values():
            # A value that the mocked provider made up is not an ARN, and the evaluator would treat it as a match.
            assert all(resource == "*" or resource.startswith("arn:") for resource in statement["Resource"]), address
    return {
        address.removeprefix("aws_iam_role."): Role(
            iam,
            arn=f"arn:aws:iam::{ACCOUNT}:role/{plan.resources[address]['name']}",
            trust=json.loads(plan.resources[address]["assume_role_policy"]),
            policies=tuple(found),
        )
        for address, found in policies.items()
    }


@pytest.fixture(scope="module")
def role(platform_plan: Plan, iam: Iam) -> RoleOf:
    return roles_of(platform_plan, iam).__getitem__


# The evaluator itself: an invalid question is an error, never a "no".


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("ssm:SendCommands", "*", {}),
        ("sqs:SendMessage", f"{MODELS}/key", {}),
        ("sqs:SendMessage", QUEUE, {"ssm:resourceTag/ComfyUIModelSync": "comfyui"}),
    ],
    ids=["no such action", "no such resource of the action", "no such key for the action"],
)
def test_an_invalid_question_is_an_error_and_not_a_refusal(
    role: RoleOf, action: str, resource: str, context: dict[str, str]
) -> None:
    with pytest.raises(IamError):
        role("sync").may(action, resource, context)


# The model-events function.


def test_function_sends_our_document_and_no_other(role: RoleOf) -> None:
    documents = f"arn:aws:ssm:{REGION}:{ACCOUNT}:document"
    assert role("sync").may("ssm:SendCommand", f"{documents}/comfyui-sync-models")
    for other in ("comfyui-film-sync-models", "AWS-RunShellScript"):
        assert not role("sync").may("ssm:SendCommand", f"{documents}/{other}")


def test_function_reaches_only_the_nodes_that_carry_the_deployments_tag(role: RoleOf) -> None:
    key, value = NAMES.sync_tag
    assert role("sync").may("ssm:SendCommand", INSTANCE, {f"ssm:resourceTag/{key}": value})
    assert not role("sync").may("ssm:SendCommand", INSTANCE, {f"ssm:resourceTag/{key}": "comfyui-film"})
    assert not role("sync").may("ssm:SendCommand", INSTANCE, {"ssm:resourceTag/Name": value})
    assert not role("sync").may("ssm:SendCommand", INSTANCE)


@pytest.mark.parametrize("elsewhere", [(OTHER_REGION, ACCOUNT), (REGION, OTHER_ACCOUNT)], ids=["region", "account"])
def test_function_reaches_no_node_elsewhere(role: RoleOf, elsewhere: tuple[str, str]) -> None:
    key, value = NAMES.sync_tag
    instance = f"arn:aws:ec2:{elsewhere[0]}:{elsewhere[1]}:instance/i-0123456789abcdef0"
    assert not role("sync").may("ssm:SendCommand", instance, {f"ssm:resourceTag/{key}": value})


@pytest.mark.parametrize("action", ["ReceiveMessage", "DeleteMessage", "GetQueueAttributes"])
def test_function_receives_model_events_and_no_dead_letters(role: RoleOf, action: str) -> None:
    assert role("sync").may(f"sqs:{action}", QUEUE)
    assert not role("sync").may(f"sqs:{action}", DEAD_LETTERS)
    assert not role("sync").may(f"sqs:{action}", INTERRUPTIONS)


def test_function_sends_to_the_dead_letters_and_to_no_other_queue(role: RoleOf) -> None:
    assert role("sync").may("sqs:SendMessage", DEAD_LETTERS)
    for queue in (QUEUE, INTERRUPTIONS, f"arn:aws:sqs:{REGION}:{ACCOUNT}:comfyui-film-model-events-dlq"):
        assert not role("sync").may("sqs:SendMessage", queue)


def test_function_writes_its_own_log_and_cannot_create_a_group_without_expiry(role: RoleOf) -> None:
    logs = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group"
    stream = f"{logs}:/aws/lambda/comfyui-models-default-sync:log-stream:2026/11/21/[1]abc"
    assert role("sync").may("logs:PutLogEvents", stream)
    assert role("sync").may("logs:CreateLogStream", stream)
    assert not role("sync").may("logs:PutLogEvents", stream.replace("default", "film"))
    assert not role("sync").may("logs:CreateLogGroup", f"{logs}:/aws/lambda/comfyui-models-default-sync")


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("s3:GetObject", f"{MODELS}/checkpoints/sd.safetensors"),
        ("s3:ListBucket", MODELS),
        ("ssm:GetCommandInvocation", "*"),
        ("ssm:StartSession", INSTANCE),
        ("ec2:TerminateInstances", INSTANCE),
    ],
)
def test_function_may_do_nothing_beside_its_job(role: RoleOf, action: str, resource: str) -> None:
    assert not role("sync").may(action, resource)


# GPU nodes.


def test_gpu_node_reads_models_and_changes_none(role: RoleOf) -> None:
    key = f"{MODELS}/checkpoints/sd.safetensors"
    assert role("gpu_node").may("s3:ListBucket", MODELS)
    assert role("gpu_node").may("s3:GetObject", key)
    for action in ("PutObject", "DeleteObject", "GetObjectVersion", "PutObjectAcl"):
        assert not role("gpu_node").may(f"s3:{action}", key)


def test_gpu_node_reads_its_program_and_not_the_state_beside_it(role: RoleOf) -> None:
    assert role("gpu_node").may("s3:GetObject", f"{ARTIFACTS}/node/0a1b/comfyui-model-sync")
    assert not role("gpu_node").may("s3:GetObject", f"{ARTIFACTS}/terraform/platform.tfstate")
    assert not role("gpu_node").may("s3:ListBucket", ARTIFACTS)
    assert not role("gpu_node").may("s3:PutObject", f"{ARTIFACTS}/node/0a1b/comfyui-model-sync")


@pytest.mark.parametrize("bucket", [INPUTS, OUTPUTS, "arn:aws:s3:::comfyui-film-models-111122223333-us-west-2"])
def test_gpu_node_reads_no_other_bucket(role: RoleOf, bucket: str) -> None:
    assert not role("gpu_node").may("s3:GetObject", f"{bucket}/key")
    assert not role("gpu_node").may("s3:ListBucket", bucket)


@pytest.mark.parametrize("node", ["gpu_node", "system_node"])
def test_node_pulls_images_joins_the_cluster_and_uses_systems_manager(role: RoleOf, node: str) -> None:
    repository = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/comfyui-images"
    assert role(node).may("ecr:GetAuthorizationToken")
    for action in ("BatchGetImage", "GetDownloadUrlForLayer", "BatchCheckLayerAvailability"):
        assert role(node).may(f"ecr:{action}", repository)
    for action in ("ec2:DescribeInstances", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel"):
        assert role(node).may(action)
    assert role(node).may("ssm:UpdateInstanceInformation", INSTANCE)
    assert role(node).may("eks-auth:AssumeRoleForPodIdentity", CLUSTER)


@pytest.mark.parametrize("node", ["gpu_node", "system_node"])
@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("ecr:PutImage", f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository/comfyui-images"),
        ("eks-auth:AssumeRoleForPodIdentity", f"{CLUSTER}-film"),
        ("ssm:GetParameter", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/database/password"),
        ("ssm:SendCommand", INSTANCE),
        ("ec2:RunInstances", INSTANCE),
        ("ec2:TerminateInstances", INSTANCE),
        ("sts:AssumeRole", f"arn:aws:iam::{ACCOUNT}:role/comfyui-{REGION}-karpenter"),
        ("s3:PutObject", f"{MODELS}/checkpoints/sd.safetensors"),
    ],
)
def test_node_may_not(role: RoleOf, node: str, action: str, resource: str) -> None:
    assert not role(node).may(action, resource)


def test_system_node_reads_no_model(role: RoleOf) -> None:
    assert not role("system_node").may("s3:GetObject", f"{MODELS}/checkpoints/sd.safetensors")


# The build of the image.


def test_image_build_reads_its_source_and_nothing_else_in_the_bucket(role: RoleOf) -> None:
    build = role("image_build")
    assert build.may("s3:GetObject", f"{ARTIFACTS}/image/source.zip")
    for key in ("terraform/platform.tfstate", "node/0a1b/comfyui-model-sync", "settings/settings.yaml"):
        assert not build.may("s3:GetObject", f"{ARTIFACTS}/{key}")
    for key in ("image/source.zip", "node/0a1b/comfyui-model-sync"):
        assert not build.may("s3:PutObject", f"{ARTIFACTS}/{key}")
    assert not build.may("s3:GetObject", f"{MODELS}/checkpoints/sd.safetensors")


def test_image_build_pushes_to_its_repository_and_deletes_nothing_there(role: RoleOf) -> None:
    build = role("image_build")
    repositories = f"arn:aws:ecr:{REGION}:{ACCOUNT}:repository"
    for action in ("InitiateLayerUpload", "UploadLayerPart", "CompleteLayerUpload", "PutImage", "BatchGetImage"):
        assert build.may(f"ecr:{action}", f"{repositories}/comfyui-images")
        assert not build.may(f"ecr:{action}", f"{repositories}/somebody-elses")
    assert build.may("ecr:GetAuthorizationToken")
    for action in ("BatchDeleteImage", "DeleteRepository", "PutImageTagMutability", "SetRepositoryPolicy"):
        assert not build.may(f"ecr:{action}", f"{repositories}/comfyui-images")


# Pods.


def test_comfyui_adds_outputs_and_can_neither_delete_nor_list_them(role: RoleOf) -> None:
    comfyui = role('pod["comfyui"]')
    for action in ("PutObject", "GetObject", "AbortMultipartUpload"):
        assert comfyui.may(f"s3:{action}", f"{OUTPUTS}/2026/image.png")
        assert not comfyui.may(f"s3:{action}", f"{MODELS}/checkpoints/sd.safetensors")
        assert not comfyui.may(f"s3:{action}", f"{INPUTS}/photo.png")
    assert not comfyui.may("s3:DeleteObject", f"{OUTPUTS}/2026/image.png")
    assert not comfyui.may("s3:ListBucket", OUTPUTS)


def test_mountpoint_edits_inputs_and_reaches_no_other_bucket(role: RoleOf) -> None:
    driver = role('pod["s3-csi-driver"]')
    assert driver.may("s3:ListBucket", INPUTS)
    for action in ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"):
        assert driver.may(f"s3:{action}", f"{INPUTS}/photo.png")
        assert not driver.may(f"s3:{action}", f"{OUTPUTS}/image.png")
        assert not driver.may(f"s3:{action}", f"{MODELS}/checkpoints/sd.safetensors")


def test_mounted_outputs_can_be_written_and_read_but_not_deleted(everything_plan: Plan, iam: Iam) -> None:
    plan = everything_plan
    driver = roles_of(plan, iam)['pod["s3-csi-driver"]']
    outputs = f"arn:aws:s3:::{plan.outputs['buckets']['outputs']}"
    assert driver.may("s3:ListBucket", outputs)
    assert driver.may("s3:PutObject", f"{outputs}/image.png")
    assert driver.may("s3:GetObject", f"{outputs}/image.png")
    assert not driver.may("s3:DeleteObject", f"{outputs}/image.png")


def test_load_balancer_controller_registers_our_targets_and_changes_nothing_else(role: RoleOf) -> None:
    controller = role('pod["load-balancer-controller"]')
    groups = f"arn:aws:elasticloadbalancing:{REGION}:{ACCOUNT}:targetgroup"
    for action in ("RegisterTargets", "DeregisterTargets"):
        assert controller.may(f"elasticloadbalancing:{action}", f"{groups}/comfyui-pods/0123456789abcdef")
        for other in ("somebody-elses", "comfyui-film-pods"):
            assert not controller.may(f"elasticloadbalancing:{action}", f"{groups}/{other}/0123456789abcdef")
    assert controller.may("elasticloadbalancing:DescribeTargetHealth")
    for action in ("ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeNetworkInterfaces"):
        assert controller.may(action)
    for action in ("ec2:CreateSecurityGroup", "ec2:AuthorizeSecurityGroupIngress"):
        assert not controller.may(action, f"{EC2}:security-group/sg-1")
    assert not controller.may("elasticloadbalancing:DeleteTargetGroup", f"{groups}/comfyui-pods/0123456789abcdef")


# Karpenter's controller.

OWNED = {"aws:ResourceTag/kubernetes.io/cluster/comfyui": "owned", "aws:ResourceTag/karpenter.sh/nodepool": "gpu"}
OTHERS = {"aws:ResourceTag/kubernetes.io/cluster/other": "owned", "aws:ResourceTag/karpenter.sh/nodepool": "gpu"}
AT_LAUNCH = {
    "aws:RequestTag/kubernetes.io/cluster/comfyui": "owned",
    "aws:RequestTag/eks:eks-cluster-name": "comfyui",
    "aws:RequestTag/karpenter.sh/nodepool": "gpu",
}
PROFILE = f"arn:aws:iam::{ACCOUNT}:instance-profile/karpenter/{REGION}/comfyui/1/comfyui_1"
OWN_PROFILE = {
    "aws:ResourceTag/kubernetes.io/cluster/comfyui": "owned",
    "aws:ResourceTag/topology.kubernetes.io/region": REGION,
    "aws:ResourceTag/karpenter.k8s.aws/ec2nodeclass": "gpu",
}
NEW_PROFILE = {key.replace("ResourceTag", "RequestTag"): value for key, value in OWN_PROFILE.items()} | {
    "aws:RequestTag/eks:eks-cluster-name": "comfyui"
}


@pytest.fixture(scope="module")
def karpenter(role: RoleOf) -> Role:
    return role('pod["karpenter"]')


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("ec2:CreateFleet", f"{EC2}:fleet/fleet-1"),
        ("ec2:CreateFleet", INSTANCE),
        ("ec2:RunInstances", INSTANCE),
        ("ec2:RunInstances", f"{EC2}:volume/vol-1"),
        ("ec2:RunInstances", f"{EC2}:network-interface/eni-1"),
        ("ec2:RunInstances", f"{EC2}:spot-instances-request/sir-1"),
    ],
)
def test_karpenter_launches_only_what_carries_its_clusters_tags(karpenter: Role, action: str, resource: str) -> None:
    assert karpenter.may(action, resource, AT_LAUNCH)
    for missing in AT_LAUNCH:
        assert not karpenter.may(action, resource, {k: v for k, v in AT_LAUNCH.items() if k != missing}), missing
    other = AT_LAUNCH | {"aws:RequestTag/eks:eks-cluster-name": "comfyui-film"}
    assert not karpenter.may(action, resource, other)


@pytest.mark.parametrize(
    "shared",
    [f"arn:aws:ec2:{REGION}::image/ami-1", f"{EC2}:subnet/subnet-1", f"{EC2}:security-group/sg-1"],
)
def test_karpenter_launches_with_shared_resources_that_it_did_not_create(karpenter: Role, shared: str) -> None:
    assert karpenter.may("ec2:RunInstances", shared)


def test_karpenter_launches_from_its_own_templates_only(karpenter: Role) -> None:
    template = f"{EC2}:launch-template/lt-1"
    assert karpenter.may("ec2:CreateLaunchTemplate", template, AT_LAUNCH)
    assert karpenter.may("ec2:RunInstances", template, OWNED)
    assert not karpenter.may("ec2:RunInstances", template, OTHERS)
    assert karpenter.may("ec2:DeleteLaunchTemplate", template, OWNED)
    assert not karpenter.may("ec2:DeleteLaunchTemplate", template, OTHERS)


def test_karpenter_terminates_its_own_instances_only(karpenter: Role) -> None:
    assert karpenter.may("ec2:TerminateInstances", INSTANCE, OWNED)
    assert not karpenter.may("ec2:TerminateInstances", INSTANCE, OTHERS)
    assert not karpenter.may("ec2:TerminateInstances", INSTANCE)
    # The managed group's nodes belong to the cluster too, but to no node pool.
    managed = {"aws:ResourceTag/kubernetes.io/cluster/comfyui": "owned"}
    assert not karpenter.may("ec2:TerminateInstances", INSTANCE, managed)


def test_karpenter_tags_at_launch_and_later_only_with_its_own_keys(karpenter: Role) -> None:
    assert karpenter.may("ec2:CreateTags", INSTANCE, AT_LAUNCH | {"ec2:CreateAction": "RunInstances"})
    assert not karpenter.may("ec2:CreateTags", INSTANCE, AT_LAUNCH | {"ec2:CreateAction": "CreateSnapshot"})
    later = OWNED | {"aws:TagKeys": ["Name", "karpenter.sh/nodeclaim"]}
    assert karpenter.may("ec2:CreateTags", INSTANCE, later)
    assert not karpenter.may("ec2:CreateTags", INSTANCE, OTHERS | {"aws:TagKeys": ["Name"]})
    # With the sync tag it could make any instance a target of the model-events function.
    assert not karpenter.may("ec2:CreateTags", INSTANCE, OWNED | {"aws:TagKeys": [NAMES.sync_tag[0]]})


def test_karpenter_passes_the_gpu_nodes_role_to_ec2_and_nothing_else(karpenter: Role, role: RoleOf) -> None:
    node = role("gpu_node").arn
    assert karpenter.may("iam:PassRole", node, {"iam:PassedToService": "ec2.amazonaws.com"})
    assert not karpenter.may("iam:PassRole", node, {"iam:PassedToService": "lambda.amazonaws.com"})
    for other in ("system_node", "cluster", "sync", 'pod["karpenter"]'):
        assert not karpenter.may("iam:PassRole", role(other).arn, {"iam:PassedToService": "ec2.amazonaws.com"})


def test_karpenter_creates_and_uses_its_own_instance_profiles_only(karpenter: Role) -> None:
    assert karpenter.may("iam:CreateInstanceProfile", PROFILE, NEW_PROFILE)
    assert not karpenter.may("iam:CreateInstanceProfile", PROFILE)
    assert karpenter.may("iam:TagInstanceProfile", PROFILE, NEW_PROFILE | OWN_PROFILE)
    assert not karpenter.may("iam:TagInstanceProfile", PROFILE, NEW_PROFILE)
    for action in ("AddRoleToInstanceProfile", "RemoveRoleFromInstanceProfile", "DeleteInstanceProfile"):
        assert karpenter.may(f"iam:{action}", PROFILE, OWN_PROFILE)
        assert not karpenter.may(f"iam:{action}", PROFILE)
    assert karpenter.may("iam:GetInstanceProfile", PROFILE)


def test_karpenter_reads_its_region_its_cluster_and_its_queue(karpenter: Role) -> None:
    here = {"aws:RequestedRegion": REGION}
    for action in ("DescribeInstances", "DescribeInstanceTypes", "DescribeSubnets", "DescribeSpotPriceHistory"):
        assert karpenter.may(f"ec2:{action}", "*", here)
        assert not karpenter.may(f"ec2:{action}", "*", {"aws:RequestedRegion": OTHER_REGION})
    assert karpenter.may("eks:DescribeCluster", CLUSTER)
    assert not karpenter.may("eks:DescribeCluster", f"{CLUSTER}-film")
    for action in ("ReceiveMessage", "DeleteMessage", "GetQueueUrl"):
        assert karpenter.may(f"sqs:{action}", INTERRUPTIONS)
        assert not karpenter.may(f"sqs:{action}", QUEUE)
    assert not karpenter.may("sqs:SendMessage", INTERRUPTIONS)
    assert not karpenter.may("ssm:GetParameter", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/database/password")


def test_karpenter_reads_the_parameters_in_which_aws_publishes_images(platform_plan: Plan) -> None:
    """By text: the evaluator knows no parameter without an account, and AWS's own have none."""
    statement = platform_plan.statements('aws_iam_role_policy.pod["karpenter"]')["ReadImageParameters"]
    assert statement["Resource"] == [f"arn:aws:ssm:{REGION}::parameter/aws/service/*"]


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("iam:CreateRole", f"arn:aws:iam::{ACCOUNT}:role/mine"),
        ("iam:AttachRolePolicy", f"arn:aws:iam::{ACCOUNT}:role/comfyui-{REGION}-karpenter"),
        ("iam:PutRolePolicy", f"arn:aws:iam::{ACCOUNT}:role/comfyui-{REGION}-karpenter"),
        ("s3:GetObject", f"{MODELS}/checkpoints/sd.safetensors"),
        ("eks:DeleteCluster", CLUSTER),
        ("ec2:ModifyInstanceMetadataOptions", INSTANCE),
    ],
)
def test_karpenter_may_not(karpenter: Role, action: str, resource: str) -> None:
    assert not karpenter.may(action, resource)


@pytest.mark.parametrize("name", ["sync", 'pod["karpenter"]'])
def test_who_reads_queues_uses_their_key_when_there_is_one(
    role: RoleOf, everything_plan: Plan, iam: Iam, name: str
) -> None:
    key = f"arn:aws:kms:{EVERYTHING_REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000"
    policy = json.loads(everything_plan.resources["aws_kms_key.messages"]["policy"])
    reader = roles_of(everything_plan, iam)[name]
    assert reader.may("kms:Decrypt", key, resource_policy=policy)
    assert not reader.may("kms:Decrypt", key.replace("0000-0", "0000-1"), resource_policy=policy)
    assert not reader.may("kms:ScheduleKeyDeletion", key, resource_policy=policy)
    assert not role(name).may("kms:Decrypt", key, resource_policy=policy)


# The cluster itself.


def test_cluster_cannot_create_its_log_group_again_after_it_was_deleted(platform_plan: Plan, iam: Iam) -> None:
    """Whatever AWS's own policy for the cluster allows, now or later."""
    cluster = roles_of(platform_plan, iam)["cluster"]
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    generous = Role(iam, cluster.arn, cluster.trust, (*cluster.policies, everything))
    group = f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:/aws/eks/comfyui/cluster"
    assert generous.may("logs:PutLogEvents", f"{group}:log-stream:kube-apiserver")
    assert not generous.may("logs:CreateLogGroup", group)


# Who may assume a role.

POD = {"aws:SourceAccount": ACCOUNT}


@pytest.mark.parametrize("action", ["sts:AssumeRole", "sts:TagSession"])
def test_every_pod_role_is_for_pods_of_this_account(platform_plan: Plan, iam: Iam, action: str) -> None:
    pods = {name: role for name, role in roles_of(platform_plan, iam).items() if name.startswith("pod[")}
    assert len(pods) == len(platform_plan.of_type("aws_eks_pod_identity_association")) > 0
    for role in pods.values():
        assert role.can_be_taken_by("pods.eks.amazonaws.com", POD, action)
        assert not role.can_be_taken_by("pods.eks.amazonaws.com", {"aws:SourceAccount": OTHER_ACCOUNT}, action)
        assert not role.can_be_taken_by("ec2.amazonaws.com", POD, action)


SERVICE_ROLES = {
    "cluster": "eks.amazonaws.com",
    "gpu_node": "ec2.amazonaws.com",
    "image_build": "codebuild.amazonaws.com",
    "sync": "lambda.amazonaws.com",
    "system_node": "ec2.amazonaws.com",
}


def test_every_other_role_is_for_one_service(everything_plan: Plan, iam: Iam) -> None:
    found = {name: role for name, role in roles_of(everything_plan, iam).items() if not name.startswith("pod[")}
    assert found.keys() == SERVICE_ROLES.keys()
    for name, role in found.items():
        for service in {*SERVICE_ROLES.values(), "pods.eks.amazonaws.com", "ssm.amazonaws.com"}:
            mine = role.can_be_taken_by(service, {"aws:SourceAccount": ACCOUNT})
            assert mine == (service == SERVICE_ROLES[name]), (name, service)


def test_the_image_is_built_for_this_account_only(role: RoleOf) -> None:
    assert not role("image_build").can_be_taken_by("codebuild.amazonaws.com", {"aws:SourceAccount": OTHER_ACCOUNT})


# Rules for every role, present and future.


def statements(plan: Plan) -> list[tuple[str, dict[str, list[str]]]]:
    """(policy, statement) for everything that an inline policy allows, with lists for single values."""
    found = [
        (address, statement)
        for address in plan.of_type("aws_iam_role_policy")
        for statement in plan.statements(address).values()
        if statement["Effect"] == "Allow"
    ]
    assert len(found) > 30
    return found


def test_no_policy_allows_a_pattern_of_actions(everything_plan: Plan) -> None:
    for address, statement in statements(everything_plan):
        assert not [action for action in statement["Action"] if "*" in action or "?" in action], address


def test_every_allowed_action_exists_and_names_its_resource_where_it_knows_any(everything_plan: Plan, iam: Iam) -> None:
    for address, statement in statements(everything_plan):
        for action in statement["Action"]:
            limits = iam.resources_of(action)
            if "*" in statement["Resource"]:
                assert not limits, f"{address}: {action} on * could be limited to {', '.join(limits)}"


def test_attached_policies_are_only_those_that_aws_maintains_for_its_own_software(everything_plan: Plan) -> None:
    attachments = everything_plan.of_type("aws_iam_role_policy_attachment").values()
    attached = {attachment["policy_arn"].rpartition("/")[2] for attachment in attachments}
    assert attached == {"AmazonEKSClusterPolicy", "AmazonEKS_CNI_Policy"}


def test_inline_policies_fit_into_iams_limit(everything_plan: Plan) -> None:
    """10,240 characters a role, white space not counted; here with the longest names."""
    for address, policy in everything_plan.of_type("aws_iam_role_policy").items():
        assert len(policy["policy"]) < 10_240, address
