//! gRPC: the signing API, the workload socket, and what replicas say to each other. Protobuf types stop here.
