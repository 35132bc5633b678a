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

variable "models_old_version_days" {
  description = "Days an overwritten or deleted model can still be brought back. Each costs its storage for that long."
  type        = number
  default     = 7

  validation {
    condition     = var.models_old_version_days >= 1 && floor(var.models_old_version_days) == var.models_old_version_days
    error_message = "models_old_version_days must be a whole number of days, at least 1."
  }
}

variable "inputs_expiry_days" {
  description = "Days after which an input file is deleted, for good. null keeps them."
  type        = number
  default     = null

  validation {
    condition     = var.inputs_expiry_days == null ? true : var.inputs_expiry_days >= 1 && floor(var.inputs_expiry_days) == var.inputs_expiry_days
    error_message = "inputs_expiry_days must be a whole number of days, at least 1, or null to keep inputs."
  }
}

variable "outputs_expiry_days" {
  description = "Days after which an output is deleted, for good. null keeps them."
  type        = number
  default     = null

  validation {
    condition     = var.outputs_expiry_days == null ? true : var.outputs_expiry_days >= 1 && floor(var.outputs_expiry_days) == var.outputs_expiry_days
    error_message = "outputs_expiry_days must be a whole number of days, at least 1, or null to keep outputs."
  }
}

variable "access_logs" {
  description = "Whether S3 logs each request to the three buckets, below access-logs/ of the artifacts bucket, for 90 days."
  type        = bool
  default     = false
}

variable "stale_upload_days" {
  description = "Days after which the parts of an upload that never finished are removed. They are paid for and shown nowhere."
  type        = number
  default     = 3

  validation {
    condition     = var.stale_upload_days >= 1 && floor(var.stale_upload_days) == var.stale_upload_days
    error_message = "stale_upload_days must be a whole number of days, at least 1."
  }
}

variable "images_kept" {
  description = "Newest ComfyUI images kept in the registry; older ones are removed."
  type        = number
  default     = 20

  validation {
    condition     = var.images_kept >= 2 && floor(var.images_kept) == var.images_kept
    error_message = "images_kept must be a whole number, at least 2: with 1, the image that a running release needs goes as soon as the next is pushed."
  }
}
