variable "project" {
  description = "Distinguishes several deployments in one account and region: 1 to 16 of a-z, 0-9 and '-'. null for the only one."
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
  description = "Tags of every resource, for example a cost centre."
  type        = map(string)
  default     = {}
}

variable "models_old_version_days" {
  description = "Days for which an overwritten or deleted model can be restored. Its storage is charged for that long."
  type        = number
  default     = 7

  validation {
    condition     = var.models_old_version_days >= 1 && floor(var.models_old_version_days) == var.models_old_version_days
    error_message = "models_old_version_days must be a whole number of days, at least 1."
  }
}

variable "inputs_expiry_days" {
  description = "Days after which an input is permanently deleted. null keeps inputs."
  type        = number
  default     = null

  validation {
    condition     = var.inputs_expiry_days == null ? true : var.inputs_expiry_days >= 1 && floor(var.inputs_expiry_days) == var.inputs_expiry_days
    error_message = "inputs_expiry_days must be a whole number of days, at least 1, or null to keep inputs."
  }
}

variable "outputs_expiry_days" {
  description = "Days after which an output is permanently deleted. null keeps outputs."
  type        = number
  default     = null

  validation {
    condition     = var.outputs_expiry_days == null ? true : var.outputs_expiry_days >= 1 && floor(var.outputs_expiry_days) == var.outputs_expiry_days
    error_message = "outputs_expiry_days must be a whole number of days, at least 1, or null to keep outputs."
  }
}

variable "access_logs" {
  description = "Whether S3 logs each request to the three buckets. Logs are below access-logs/ of the artifacts bucket and are kept for 90 days."
  type        = bool
  default     = false
}

variable "stale_upload_days" {
  description = "Days after which the parts of an incomplete upload are removed. Their storage is charged, but no listing shows them."
  type        = number
  default     = 3

  validation {
    condition     = var.stale_upload_days >= 1 && floor(var.stale_upload_days) == var.stale_upload_days
    error_message = "stale_upload_days must be a whole number of days, at least 1."
  }
}

variable "images_kept" {
  description = "Number of ComfyUI images kept in the registry; older ones are removed."
  type        = number
  default     = 20

  validation {
    condition     = var.images_kept >= 2 && floor(var.images_kept) == var.images_kept
    error_message = "images_kept must be a whole number, at least 2: with 1, pushing the next image would remove the one that a running release uses."
  }
}
