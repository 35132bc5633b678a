# The data root with every switch on: tests/infra reads the plan of this run. A new variable is set here, or
# tests/infra/test_inventory.py says that it is not.

mock_provider "aws" {
  override_during = plan
  source          = "../mocks"
}

variables {
  project                 = "sixteen-char-abc"
  region                  = "ap-southeast-1"
  tags                    = { CostCentre = "studio" }
  models_old_version_days = 30
  stale_upload_days       = 7
  images_kept             = 50
  inputs_expiry_days      = 30
  outputs_expiry_days     = 90
  access_logs             = true
}

run "everything" {
  command = plan
}
