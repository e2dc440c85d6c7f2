#include <iostream>
#include <numeric>
#include <vector>

int main()
{
    std::vector<int> numbers{1, 2, 3};
    std::cout << "hello from C++, " << std::accumulate(numbers.begin(), numbers.end(), 0) << "\n";
}
