variable "project" {
  description = "Tells several deployments in one account and region apart. null for the only one; else 1 to 16 of a-z, 0-9 and '-'."
  type        = string
  default     = null

  validation {
    condition     = var.project == null ? true : can(regex("^[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?$", var.project)) && var.project != "default"
    error_message = "project must be 1 to 16 of a-z, 0-9 and '-', without '-' at either end, and not 'default'. Leave it out (null) for the only deployment of an account and region."
  }
}

variable "region" {
  description = "AWS region of the deployment; part of every bucket name."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2,}(-[a-z]+)+-[0-9]+$", var.region))
    error_message = "region must be the code of an AWS region, such as us-west-2."
  }
}

variable "tags" {
  description = "Tags put on every resource, for example a cost centre."
  type        = map(string)
  default     = {}
}

variable "vpc_cidr" {
  description = "Address range of the VPC. Each pod takes one address."
  type        = string
  default     = "10.0.0.0/16"

  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && try(tonumber(split("/", var.vpc_cidr)[1]) >= 16 && tonumber(split("/", var.vpc_cidr)[1]) <= 20, false)
    error_message = "vpc_cidr must be an IPv4 range from /16 (the largest that AWS takes) to /20 (about a thousand addresses per zone), such as 10.0.0.0/16."
  }
}

variable "private_subnet_ids" {
  description = "Private subnets of a VPC that is there already, in two zones or more. Its routes, NAT and endpoints stay its owner's. [] makes a VPC."
  type        = list(string)
  default     = []

  validation {
    condition     = length(var.private_subnet_ids) != 1 && alltrue([for id in var.private_subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "private_subnet_ids takes the ids of at least two subnets, in two zones, such as subnet-0123456789abcdef0; [] makes a VPC."
  }

  validation {
    condition     = length(distinct(var.private_subnet_ids)) == length(var.private_subnet_ids)
    error_message = "private_subnet_ids names a subnet twice."
  }
}

variable "nat" {
  description = "How nodes reach the internet: one NAT gateway, one per zone (per_az: survives the loss of a zone, 33 USD a month each), or none. In an existing VPC only none matters: there is no way."
  type        = string
  default     = "one"

  validation {
    condition     = contains(["one", "per_az", "none"], var.nat)
    error_message = "nat must be one, per_az or none."
  }

  validation {
    condition     = var.nat != "none" || var.interface_endpoints || length(var.private_subnet_ids) > 0
    error_message = "nat = \"none\" needs interface_endpoints = true: without either, nodes reach no AWS service and never join the cluster."
  }

  validation {
    condition     = var.nat != "none" || var.image_mirror != null
    error_message = "nat = \"none\" needs image_mirror: Karpenter, the load balancer controller and the device plugin come from public registries, which nodes then cannot reach. Copy their images to a registry of yours and name it."
  }
}

variable "interface_endpoints" {
  description = "Whether EKS, ECR, SSM and the other services that nodes ask have endpoints inside the VPC. About 7 USD a month for each of eleven, in each zone."
  type        = bool
  default     = false
}

variable "image_mirror" {
  description = "Registry and prefix that hold copies of the add-ons' images under their own names, such as 111122223333.dkr.ecr.us-west-2.amazonaws.com/mirror for …/mirror/karpenter/controller. null takes them from where they are published."
  type        = string
  default     = null

  validation {
    condition     = var.image_mirror == null ? true : can(regex("^[a-z0-9.-]+(:[0-9]+)?(/[a-z0-9._-]+)*$", var.image_mirror))
    error_message = "image_mirror must be a registry, with a prefix if need be and without a slash at the end or https://, such as 111122223333.dkr.ecr.us-west-2.amazonaws.com/mirror."
  }
}

variable "api_public_access" {
  description = "Whether the Kubernetes API can be reached from outside the VPC, by api_allowed_cidrs only."
  type        = bool
  default     = true
}

variable "api_allowed_cidrs" {
  description = "Address ranges that may reach the Kubernetes API, such as an office or a VPN."
  type        = list(string)
  default     = []

  validation {
    condition     = !var.api_public_access || length(var.api_allowed_cidrs) > 0
    error_message = "api_allowed_cidrs is empty. Name who may reach the Kubernetes API (your own address with /32), or set api_public_access = false and work from inside the VPC."
  }

  validation {
    condition     = alltrue([for cidr in var.api_allowed_cidrs : can(cidrnetmask(cidr)) && try(tonumber(split("/", cidr)[1]) >= 8, false)])
    error_message = "api_allowed_cidrs takes IPv4 ranges from /8 to /32, such as 198.51.100.7/32. 0.0.0.0/0 is refused: it opens the cluster's API to everyone."
  }
}

variable "cluster_admin_arns" {
  description = "IAM roles or users that administer the cluster, beside the one that creates it."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for arn in var.cluster_admin_arns : can(regex("^arn:[a-z-]+:iam::[0-9]{12}:(role|user)/", arn))])
    error_message = "cluster_admin_arns takes ARNs of IAM roles or users, such as arn:aws:iam::111122223333:role/admin (of a role, not of its session)."
  }
}

variable "system_node_types" {
  description = "Instance types of the CPU nodes, x86, at least 4 vCPU and 16 GiB."
  type        = list(string)
  default     = ["t3a.xlarge"]

  validation {
    condition     = length(var.system_node_types) > 0 && alltrue([for type in var.system_node_types : can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", type))])
    error_message = "system_node_types needs at least one EC2 instance type, such as t3a.xlarge."
  }
}

variable "system_node_count" {
  description = "Number of CPU nodes. Karpenter's two replicas need a node each."
  type        = number
  default     = 2

  validation {
    condition     = var.system_node_count >= 2 && floor(var.system_node_count) == var.system_node_count
    error_message = "system_node_count must be a whole number, at least 2: Karpenter's replicas refuse to share a node."
  }
}

variable "system_node_disk_gib" {
  description = "Root disk of a CPU node in GiB."
  type        = number
  default     = 50

  validation {
    condition     = var.system_node_disk_gib >= 20
    error_message = "system_node_disk_gib must be at least 20: the system image alone takes most of less."
  }
}

variable "log_retention_days" {
  description = "Days that the logs of the control plane and of the model-events function are kept."
  type        = number
  default     = 30

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days must be a number that CloudWatch knows: 1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731 or a whole number of years up to 3653."
  }
}

variable "efs" {
  description = "Whether there is an encrypted EFS file system, with its CSI driver, for the ComfyUI chart's models.source = efs."
  type        = bool
  default     = false
}

variable "queue_kms_key" {
  description = "Whether queues are encrypted with a KMS key of the deployment instead of the key that SQS manages."
  type        = bool
  default     = false
}

variable "alarm_email" {
  description = "Who is told of alarms, once the link in the first message was followed. null: nobody, the topic is there to subscribe to."
  type        = string
  default     = null

  validation {
    condition     = var.alarm_email == null ? true : can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", var.alarm_email))
    error_message = "alarm_email must be an e-mail address, such as ops@example.com."
  }
}

variable "monthly_budget_usd" {
  description = "US dollars a month at which the alarms' topic is told: 80 % spent, or all of it forecast. Needs the cost allocation tag Deployment. null: no budget."
  type        = number
  default     = null

  validation {
    condition     = var.monthly_budget_usd == null ? true : var.monthly_budget_usd >= 1
    error_message = "monthly_budget_usd must be at least 1."
  }
}

variable "comfyui_namespace" {
  description = "Kubernetes namespace of the ComfyUI release."
  type        = string
  default     = "comfyui"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.comfyui_namespace))
    error_message = "comfyui_namespace must be a Kubernetes name: 1 to 63 of a-z, 0-9 and '-', without '-' at either end."
  }
}

variable "comfyui_release" {
  description = "Name of the ComfyUI Helm release, which is also its service account."
  type        = string
  default     = "comfyui"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?$", var.comfyui_release))
    error_message = "comfyui_release must be a Helm release name: 1 to 53 of a-z, 0-9 and '-', without '-' at either end."
  }
}

variable "mount_outputs" {
  description = "Whether pods may mount the outputs bucket, which the ComfyUI chart's outputs.mode = mount needs. The default mode uploads and mounts nothing."
  type        = bool
  default     = false
}

variable "node_files" {
  description = "Files that GPU nodes install at boot, by part: key in the artifacts bucket and SHA-256. `comfyeks infra apply` puts them there and names them."
  type        = map(object({ key = string, sha256 = string }))

  validation {
    condition     = toset(keys(var.node_files)) == toset(["program", "service", "timer", "path", "s5cmd"])
    error_message = "node_files needs exactly program, service, timer, path and s5cmd. `comfyeks infra apply` gives them."
  }
}
