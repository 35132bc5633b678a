# A new VPC, or subnets of an existing one (private_subnet_ids). Other files of this root refer to the locals only.

locals {
  # EKS has no control planes in these zones and rejects a cluster with a subnet there. By id: names differ between accounts.
  zones_without_eks = ["use1-az3", "usw1-az2", "cac1-az3"]

  own_vpc            = length(var.private_subnet_ids) == 0
  reaches_internet   = var.nat != "none"
  vpc_id             = one(concat(aws_vpc.this[*].id, data.aws_vpc.existing[*].id))
  vpc_cidrs          = local.own_vpc ? [var.vpc_cidr] : data.aws_vpc.existing[0].cidr_block_associations[*].cidr_block
  private_subnet_ids = local.own_vpc ? [for subnet in aws_subnet.private : subnet.id] : var.private_subnet_ids

  first_zones = slice(
    data.aws_availability_zones.available.names,
    0, min(3, length(data.aws_availability_zones.available.names))
  )

  zones = local.own_vpc ? (length(var.zones) > 0 ? var.zones : local.first_zones) : []

  # Three quarters of the range are for pods, each of which uses an address; the last quarter is for the public subnets.
  private_cidrs = { for i, zone in local.zones : zone => cidrsubnet(var.vpc_cidr, 2, i) }
  public_cidrs = local.reaches_internet ? {
    for i, zone in local.zones : zone => cidrsubnet(cidrsubnet(var.vpc_cidr, 2, 3), 4, i)
  } : {}

  nat_zones = {
    one    = slice(local.zones, 0, min(1, length(local.zones)))
    per_az = local.zones
    none   = []
  }[var.nat]
}

data "aws_availability_zones" "available" {
  #checkov:skip=CKV_AWS_394:the first three by name are used, and AWS gives new zones later names

  state            = "available"
  exclude_zone_ids = local.zones_without_eks

  # Local Zones and Wavelength Zones need an opt-in, and have no control planes and few GPU types.
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

data "aws_subnet" "existing" {
  for_each = toset(var.private_subnet_ids)

  id = each.value

  lifecycle {
    postcondition {
      condition     = !contains(local.zones_without_eks, self.availability_zone_id)
      error_message = "private_subnet_ids: ${self.id} is in zone ${self.availability_zone_id}, where EKS has no control planes. Use a subnet of another zone."
    }
  }
}

data "aws_vpc" "existing" {
  count = local.own_vpc ? 0 : 1

  id = values(data.aws_subnet.existing)[0].vpc_id

  lifecycle {
    precondition {
      condition     = length(distinct(values(data.aws_subnet.existing)[*].vpc_id)) == 1
      error_message = "private_subnet_ids are in ${length(distinct(values(data.aws_subnet.existing)[*].vpc_id))} different VPCs. All must be in one VPC."
    }

    precondition {
      condition     = length(distinct(values(data.aws_subnet.existing)[*].availability_zone)) >= 2
      error_message = "private_subnet_ids are all in zone ${values(data.aws_subnet.existing)[0].availability_zone}. EKS and the load balancer need subnets in at least two zones."
    }

    postcondition {
      condition     = self.enable_dns_support && self.enable_dns_hostnames
      error_message = "private_subnet_ids: DNS support or DNS hostnames are disabled in VPC ${self.id}, so that nodes would not find the cluster's private endpoint. Enable both."
    }
  }
}

resource "aws_vpc" "this" {
  #checkov:skip=CKV2_AWS_11:flow logs are charged by volume, and each node downloads hundreds of GB of models
  count = local.own_vpc ? 1 : 0

  cidr_block           = var.vpc_cidr
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = { Name = local.name }
}

# No rules: an instance that is started without a security group of its own cannot reach anything.
resource "aws_default_security_group" "this" {
  count = local.own_vpc ? 1 : 0

  vpc_id = aws_vpc.this[0].id # not the local, which checkov does not evaluate

  tags = { Name = "${local.name}-unused" }
}

resource "aws_subnet" "private" {
  for_each = local.private_cidrs

  vpc_id            = local.vpc_id
  availability_zone = each.key
  cidr_block        = each.value

  tags = {
    Name                              = "${local.name}-private-${each.key}"
    "kubernetes.io/role/internal-elb" = "1"
    "karpenter.sh/discovery"          = local.name
  }
}

resource "aws_route_table" "private" {
  for_each = local.private_cidrs

  vpc_id = local.vpc_id

  tags = { Name = "${local.name}-private-${each.key}" }
}

resource "aws_route_table_association" "private" {
  for_each = local.private_cidrs

  subnet_id      = aws_subnet.private[each.key].id
  route_table_id = aws_route_table.private[each.key].id
}

# Routes to the internet; nothing here is created with nat = none.

resource "aws_internet_gateway" "this" {
  count = local.own_vpc && local.reaches_internet ? 1 : 0

  vpc_id = local.vpc_id

  tags = { Name = local.name }
}

resource "aws_subnet" "public" {
  for_each = local.public_cidrs

  vpc_id            = local.vpc_id
  availability_zone = each.key
  cidr_block        = each.value

  tags = {
    Name                     = "${local.name}-public-${each.key}"
    "kubernetes.io/role/elb" = "1"
  }
}

resource "aws_route_table" "public" {
  count = length(aws_internet_gateway.this)

  vpc_id = local.vpc_id

  tags = { Name = "${local.name}-public" }
}

resource "aws_route" "internet" {
  count = length(aws_internet_gateway.this)

  route_table_id         = aws_route_table.public[0].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this[0].id
}

resource "aws_route_table_association" "public" {
  for_each = local.public_cidrs

  subnet_id      = aws_subnet.public[each.key].id
  route_table_id = aws_route_table.public[0].id
}

resource "aws_eip" "nat" {
  for_each = toset(local.nat_zones)

  domain = "vpc"

  tags = { Name = "${local.name}-nat-${each.key}" }

  depends_on = [aws_internet_gateway.this]
}

resource "aws_nat_gateway" "this" {
  for_each = toset(local.nat_zones)

  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.public[each.key].id

  tags = { Name = "${local.name}-${each.key}" }
}

resource "aws_route" "nat" {
  for_each = toset(local.reaches_internet ? local.zones : [])

  route_table_id         = aws_route_table.private[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.this[var.nat == "per_az" ? each.key : local.nat_zones[0]].id
}

# Most traffic is models, hundreds of gigabytes per new node: free through this endpoint, charged per gigabyte through NAT.
# In an existing VPC the owner manages the route tables, and the command line warns if they lack such an endpoint.
resource "aws_vpc_endpoint" "s3" {
  count = local.own_vpc ? 1 : 0

  vpc_id            = local.vpc_id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [for table in aws_route_table.private : table.id]

  tags = { Name = "${local.name}-s3" }
}

# The AWS services that nodes and controllers use, reached without leaving the VPC. Each costs about 7 USD a month in each zone.
locals {
  interface_endpoints = toset(var.interface_endpoints ? concat(
    [
      "ec2",                  # network plugin, Karpenter
      "ecr.api",              # images
      "ecr.dkr",              # images
      "eks",                  # Karpenter finds the cluster
      "eks-auth",             # pod identity
      "elasticloadbalancing", # load balancer controller
      "logs",
      "sqs",         # Karpenter's interruptions
      "ssm",         # model sync, AMI of new nodes
      "ssmmessages", # model sync
      "sts",         # joining nodes
    ],
    var.efs ? ["elasticfilesystem"] : [],
  ) : [])
}

# Looked up, because the prefix of the name differs between partitions.
data "aws_vpc_endpoint_service" "this" {
  for_each = local.interface_endpoints

  service      = each.key
  service_type = "Interface"
}

resource "aws_security_group" "endpoints" {
  count = var.interface_endpoints ? 1 : 0

  name        = "${local.name}-endpoints"
  description = "Interface endpoints of ${local.name}"
  vpc_id      = local.vpc_id

  tags = { Name = "${local.name}-endpoints" }
}

resource "aws_vpc_security_group_ingress_rule" "endpoints" {
  for_each = toset(var.interface_endpoints ? local.vpc_cidrs : [])

  security_group_id = aws_security_group.endpoints[0].id
  description       = "HTTPS from the VPC"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = each.value
}

resource "aws_vpc_endpoint" "interface" {
  for_each = local.interface_endpoints

  vpc_id              = local.vpc_id
  service_name        = data.aws_vpc_endpoint_service.this[each.key].service_name
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = local.private_subnet_ids
  security_group_ids  = [aws_security_group.endpoints[0].id]

  tags = { Name = "${local.name}-${each.key}" }
}
