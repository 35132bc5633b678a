from tests.support.deployment import aws, deployment
