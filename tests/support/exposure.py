"""Every option of the platform's exposure (load balancer, CloudFront, sign-in), for tests on the local AWS."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from comfyeks_local.emulators.local_aws import REGION, LocalAws

DOMAIN = "comfyui.example.com"
CLOUDFRONT_REGION = "us-east-1"
OIDC_SECRET = "comfyui-oidc"


def import_certificate(aws: LocalAws, region: str, domain: str = DOMAIN) -> str:
    """ARN of a new self-signed certificate in the local ACM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, domain)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=7))
        .sign(key, hashes.SHA256())
    )
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    arn: str = client(aws, "acm", region).import_certificate(
        Certificate=certificate.public_bytes(serialization.Encoding.PEM), PrivateKey=key.private_bytes(*plain)
    )["CertificateArn"]
    return arn


def client(aws: LocalAws, service: str, region: str) -> Any:
    """As LocalAws.client, in another region."""
    return boto3.client(
        service,
        region_name=region,
        endpoint_url=aws.client(service).meta.endpoint_url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


def everything(aws: LocalAws) -> dict[str, Any]:
    """Settings of the platform root with each option on; creates the certificates that they name."""
    return {
        "load_balancer_log_bucket": "studio-logs",
        "load_balancer_allowed_cidrs": ["10.0.0.0/16", "10.20.0.0/16"],
        "domain_name": DOMAIN,
        "certificate_arn": import_certificate(aws, REGION),
        "sign_in": "cognito",
        "cloudfront": True,
        "cloudfront_certificate_arn": import_certificate(aws, CLOUDFRONT_REGION),
        "cloudfront_allowed_cidrs": ["198.51.100.0/24", "2001:db8::/32"],
        "privatelink_allowed_principals": ["arn:aws:iam::444455556666:root"],
    }


def oidc(aws: LocalAws) -> dict[str, Any]:
    """What replaces `sign_in = cognito` in these settings; creates the secret that it names."""
    aws.client("secretsmanager").create_secret(
        Name=OIDC_SECRET, SecretString="between the load balancer and its provider"
    )
    return {
        "sign_in": "oidc",
        "oidc": {
            "issuer": "https://id.example.com",
            "authorization_endpoint": "https://id.example.com/authorize",
            "token_endpoint": "https://id.example.com/token",
            "user_info_endpoint": "https://id.example.com/userinfo",
            "client_id": "comfyui",
            "client_secret_id": OIDC_SECRET,
        },
    }


def inventory(aws: LocalAws) -> dict[str, int]:
    """Number of resources of the exposure, by kind."""
    elb, ec2 = aws.client("elbv2"), aws.client("ec2")
    cloudfront, pools = aws.client("cloudfront"), aws.client("cognito-idp")
    waf = client(aws, "wafv2", CLOUDFRONT_REGION)
    groups = ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["comfyui*"]}])["SecurityGroups"]
    return {
        "load balancers": len(elb.describe_load_balancers()["LoadBalancers"]),
        "target groups": len(elb.describe_target_groups()["TargetGroups"]),
        "endpoint services": len(ec2.describe_vpc_endpoint_service_configurations()["ServiceConfigurations"]),
        "security groups": len(groups),
        "distributions": cloudfront.list_distributions()["DistributionList"]["Quantity"],
        "VPC origins": cloudfront.list_vpc_origins()["VpcOriginList"]["Quantity"],
        "web ACLs": len(waf.list_web_acls(Scope="CLOUDFRONT")["WebACLs"]),
        "IP sets": len(waf.list_ip_sets(Scope="CLOUDFRONT")["IPSets"]),
        "logs of web ACLs": len(client(aws, "logs", CLOUDFRONT_REGION).describe_log_groups()["logGroups"]),
        "user pools": len(pools.list_user_pools(MaxResults=10)["UserPools"]),
    }
