"""Who may do what: the least that each role's job needs."""

from __future__ import annotations

import json

import pytest

from comfyeks.deployment import Deployment

from .conftest import ACCOUNT, REGION, Plan

NAMES = Deployment(project=None, region=REGION, account=ACCOUNT)
MODELS = f"arn:aws:s3:::{NAMES.bucket('models')}"
OUTPUTS = f"arn:aws:s3:::{NAMES.bucket('outputs')}"
INPUTS = f"arn:aws:s3:::{NAMES.bucket('inputs')}"
ARTIFACTS = f"arn:aws:s3:::{NAMES.bucket('artifacts')}"
QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:comfyui-model-events"

# Actions that IAM grants on everything or not at all.
WITHOUT_RESOURCE = (
    "ec2:Describe",
    "ecr:GetAuthorizationToken",
    "elasticloadbalancing:Describe",
    "iam:ListInstanceProfiles",
    "pricing:GetProducts",
    "ssm:UpdateInstanceInformation",
    "ssmmessages:",
)


def role_policies(plan: Plan) -> list[str]:
    found = sorted(plan.of_type("aws_iam_role_policy"))
    assert len(found) == 9
    return found


def allowing_policies(plan: Plan) -> list[str]:
    return [address for address in role_policies(plan) if address != "aws_iam_role_policy.cluster_makes_no_log_group"]


def test_cluster_cannot_make_its_log_group_anew_after_it_was_deleted(platform_plan: Plan) -> None:
    [refusal] = platform_plan.statements("aws_iam_role_policy.cluster_makes_no_log_group").values()
    assert (refusal["Effect"], refusal["Action"], refusal["Resource"]) == ("Deny", ["logs:CreateLogGroup"], ["*"])


def test_no_policy_allows_a_whole_service_or_everything(platform_plan: Plan) -> None:
    for address in allowing_policies(platform_plan):
        for statement in platform_plan.statements(address).values():
            assert statement["Effect"] == "Allow"
            assert not [action for action in statement["Action"] if "*" in action], address


def test_every_resource_is_named_where_the_action_knows_resources(platform_plan: Plan) -> None:
    for address in allowing_policies(platform_plan):
        for sid, statement in platform_plan.statements(address).items():
            if statement["Resource"] == ["*"]:
                assert all(action.startswith(WITHOUT_RESOURCE) for action in statement["Action"]), (address, sid)


def test_attached_policies_are_the_two_that_aws_keeps_up_with_its_own_software(platform_plan: Plan) -> None:
    attached = {
        a["policy_arn"].rpartition("/")[2] for a in platform_plan.of_type("aws_iam_role_policy_attachment").values()
    }
    assert attached == {"AmazonEKSClusterPolicy", "AmazonEKS_CNI_Policy"}


def test_inline_policies_fit_into_what_iam_takes(platform_plan: Plan) -> None:
    for address in role_policies(platform_plan):
        assert len(platform_plan.resources[address]["policy"]) < 10_240, address


def test_function_may_send_the_document_to_tagged_nodes_only(platform_plan: Plan) -> None:
    statements = platform_plan.statements("aws_iam_role_policy.sync")
    sends = {sid: s for sid, s in statements.items() if "ssm:SendCommand" in s["Action"]}
    assert sends.keys() == {"UseSyncDocument", "OnSyncNodes"}
    document = f"arn:aws:ssm:{REGION}:{ACCOUNT}:document/comfyui-sync-models"
    assert sends["UseSyncDocument"]["Resource"] == [document]
    assert "Condition" not in sends["UseSyncDocument"]  # a document has no such tag: the condition would never hold
    assert sends["OnSyncNodes"]["Resource"] == [f"arn:aws:ec2:{REGION}:{ACCOUNT}:instance/*"]
    key, value = NAMES.sync_tag
    assert sends["OnSyncNodes"]["Condition"] == {"StringEquals": {f"ssm:resourceTag/{key}": value}}


def test_function_reads_the_queue_and_only_sends_to_the_dead_letters(platform_plan: Plan) -> None:
    statements = platform_plan.statements("aws_iam_role_policy.sync")
    on_queues = {
        tuple(s["Resource"]): set(s["Action"]) for s in statements.values() if s["Action"][0].startswith("sqs:")
    }
    assert on_queues == {
        (QUEUE,): {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"},
        (f"{QUEUE}-dlq",): {"sqs:SendMessage"},
    }


def test_function_touches_no_bucket(platform_plan: Plan) -> None:
    assert "s3:" not in platform_plan.resources["aws_iam_role_policy.sync"]["policy"]


def test_gpu_nodes_read_models_and_the_node_program_and_nothing_else_in_s3(platform_plan: Plan) -> None:
    statements = platform_plan.statements("aws_iam_role_policy.gpu_node").values()
    allowed = {(action, resource) for s in statements for action in s["Action"] for resource in s["Resource"]}
    assert {pair for pair in allowed if pair[0].startswith("s3:")} == {
        ("s3:ListBucket", MODELS),
        ("s3:GetObject", f"{MODELS}/*"),
        ("s3:GetObject", f"{ARTIFACTS}/node/*"),  # not terraform/: the state is no node's business
    }


def test_system_nodes_reach_no_bucket_at_all(platform_plan: Plan) -> None:
    assert "s3:" not in platform_plan.resources["aws_iam_role_policy.system_node"]["policy"]


@pytest.mark.parametrize("role", ["gpu_node", "system_node"])
def test_nodes_may_not_read_the_accounts_parameters(platform_plan: Plan, role: str) -> None:
    assert "ssm:GetParameter" not in platform_plan.resources[f"aws_iam_role_policy.{role}"]["policy"]


def test_comfyui_writes_outputs_and_can_delete_or_list_none(platform_plan: Plan) -> None:
    [statement] = platform_plan.statements('aws_iam_role_policy.pod["comfyui"]').values()
    assert statement["Resource"] == [f"{OUTPUTS}/*"]
    assert set(statement["Action"]) == {"s3:PutObject", "s3:GetObject", "s3:AbortMultipartUpload"}


def test_mountpoint_reaches_inputs_only(platform_plan: Plan) -> None:
    statements = platform_plan.statements('aws_iam_role_policy.pod["s3-csi-driver"]').values()
    resources = {resource for statement in statements for resource in statement["Resource"]}
    assert resources == {INPUTS, f"{INPUTS}/*"}


def test_karpenter_changes_only_what_carries_its_clusters_tag(platform_plan: Plan) -> None:
    statements = platform_plan.statements('aws_iam_role_policy.pod["karpenter"]')
    changing = ("ec2:CreateTags", "ec2:TerminateInstances", "ec2:DeleteLaunchTemplate", "ec2:CreateLaunchTemplate")
    tag = "kubernetes.io/cluster/comfyui"
    for sid, statement in statements.items():
        if set(statement["Action"]) & set(changing):
            conditions = statement["Condition"]["StringEquals"]
            assert "owned" in (conditions.get(f"aws:ResourceTag/{tag}"), conditions.get(f"aws:RequestTag/{tag}")), sid


def test_karpenter_passes_the_gpu_node_role_to_ec2_only(platform_plan: Plan) -> None:
    statement = platform_plan.statements('aws_iam_role_policy.pod["karpenter"]')["PassNodeRole"]
    assert statement["Resource"] == [f"arn:aws:iam::{ACCOUNT}:role/comfyui-{REGION}-gpu-node"]
    assert statement["Condition"]["StringEquals"]["iam:PassedToService"] == [
        "ec2.amazonaws.com",
        "ec2.amazonaws.com.cn",
    ]


def test_models_bucket_of_this_account_alone_may_send_model_events(platform_plan: Plan) -> None:
    sender = platform_plan.statements("aws_sqs_queue.model_events")["ModelsBucket"]
    assert sender["Principal"] == {"Service": "s3.amazonaws.com"}
    assert sender["Condition"] == {
        "ArnEquals": {"aws:SourceArn": MODELS},
        "StringEquals": {"aws:SourceAccount": ACCOUNT},
    }


def test_every_queue_refuses_plain_http(platform_plan: Plan) -> None:
    queues = platform_plan.of_type("aws_sqs_queue")
    assert len(queues) == 3
    for address, queue in queues.items():
        refusal = platform_plan.statements(address)["RefusePlainHttp"]
        assert refusal["Effect"] == "Deny"
        assert refusal["Resource"] == [f"arn:aws:sqs:{REGION}:{ACCOUNT}:{queue['name']}"]


def test_pod_roles_can_be_taken_by_this_accounts_pods_only(platform_plan: Plan) -> None:
    roles = platform_plan.of_type("aws_iam_role")
    for address in (a for a in roles if a.startswith("aws_iam_role.pod")):
        [trust] = json.loads(roles[address]["assume_role_policy"])["Statement"]
        assert trust["Principal"] == {"Service": "pods.eks.amazonaws.com"}
        assert set(trust["Action"]) == {"sts:AssumeRole", "sts:TagSession"}
        assert trust["Condition"] == {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
