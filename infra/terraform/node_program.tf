# What GPU nodes run, under its own hash: a node fetches exactly the bytes that its user data names, or nothing.

locals {
  node_program_prefix = "node"

  node_files = {
    program = "${path.module}/../../node/comfyui-model-sync"
    service = "${path.module}/../../node/comfyui-model-sync.service"
    timer   = "${path.module}/../../node/comfyui-model-sync.timer"
    path    = "${path.module}/../../node/comfyui-model-sync.path"
    s5cmd   = var.s5cmd_path
  }

  node_objects = {
    for part, file in local.node_files : part => {
      key    = "${local.node_program_prefix}/${filesha256(file)}/${basename(file)}"
      sha256 = filesha256(file)
    }
  }
}

resource "aws_s3_object" "node_program" {
  for_each = local.node_objects

  bucket      = data.aws_s3_bucket.this["artifacts"].bucket
  key         = each.value.key
  source      = local.node_files[each.key]
  source_hash = each.value.sha256

  # Nodes of the old release may still be booting while the new one is put there.
  lifecycle {
    create_before_destroy = true
  }
}
